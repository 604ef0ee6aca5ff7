"""Gradients from elsewhere, sketched by a run's own random map: probes that can be held against its rows."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gradlog.analysis.common.text import counted, enumerate_some
from gradlog.analysis.common.types import Float32, Float64
from gradlog.errors import GradientError
from gradlog.format.header import RunHeader
from gradlog.sketching.groups import canonical
from gradlog.sketching.projector import Projector, projector
from gradlog.sketching.pytree import as_entries, flatten

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run


@dataclasses.dataclass(frozen=True)
class Probe:
    """A gradient, sketched.

    Attributes
    ----------
    header : RunHeader
        Sketch, groups and tensors of the run whose map sketched it.
    sketch : float32 (groups, k)
    norm2 : float64 (groups,)
        Squared norm in each group, exact.
    left_out : tuple of str
        Tensors that were handed over and that the run does not record.
    """

    header: RunHeader
    sketch: Float32
    norm2: Float64
    left_out: tuple[str, ...] = ()

    @property
    def norm(self) -> float:
        """Norm of the gradient, over all that the run records."""
        return float(np.sqrt(self.norm2.sum()))


class Sketcher:
    """Sketches any gradient of a run's model as the recorder would have.

    Examples
    --------
    >>> sketcher = open_run("run.zarr").sketcher()                                          # doctest: +SKIP
    >>> probe = sketcher.sketch({n: p.grad for n, p in model.named_parameters()})           # doctest: +SKIP
    >>> probe.norm                                                                          # doctest: +SKIP
    1.75
    """

    def __init__(self, run: Run) -> None:
        self.header = run.whole_header
        self._where = run.where

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors that a gradient has to have."""
        return tuple(t.name for t in self.header.tensors)

    @cached_property
    def _projector(self) -> Projector:
        return projector(self.header.sketch, self.header.tensors, len(self.header.groups))

    def sketch(self, gradients: object) -> Probe:
        """Sketch one gradient.

        Parameters
        ----------
        gradients : mapping, tree or iterable of (name, array)
            As ``Logger.step`` takes them: arrays of any framework, by the names under which the run recorded them;
            marks of torch's wrappers may be there or not. None stands for no gradient.

        Returns
        -------
        Probe

        Raises
        ------
        GradientError
            A tensor of the run is missing or has another shape, a name occurs twice, or a number is NaN or inf.
        UnsupportedError
            The run was sketched by a map that this version does not know.
        """
        own = set(self.names)
        given: dict[str, object] = {}
        for name, leaf in flatten(gradients):
            plain = name if name in own else canonical(name)
            if plain in given:
                raise GradientError(f"{plain!r} occurs twice among these gradients; hand each over once")
            given[plain] = leaf
        if missing := [name for name in self.names if name not in given]:
            raise GradientError(
                f"{self._where}: expected gradients of {counted(len(own), 'tensor')}, {enumerate_some(missing, 3)} not "
                f"found among {enumerate_some(list(given), 3)}; where a tensor has none, hand over None"
            )
        shape = (len(self.header.groups), self.header.sketch.k)
        sketch, norm2 = np.empty(shape, np.float32), np.empty(shape[0])
        self._projector.project([as_entries(given[name], name) for name in self.names], sketch, norm2)
        if not (np.isfinite(sketch).all() and np.isfinite(norm2).all()):
            raise GradientError("expected a finite gradient, got one with NaN or inf; it has no direction")
        return Probe(self.header, sketch, norm2, tuple(name for name in given if name not in own))
