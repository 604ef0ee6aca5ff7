"""Probe gradients held against the steps of a run, and against each other.

What a validation batch, one task or one sample would do to the parameters is a direction. Its cosine with the gradient
of a step says whether that step also served it, its cosine with another probe whether the two conflict. Only sketches
by one map can be compared, since only then <S a, S b> estimates <a, b>.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.text import enumerate_some
from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.measures.cosines import cosine_intervals
from gradlog.analysis.measures.exact_groups import exact_groups
from gradlog.analysis.reading.rows import buffer_rows
from gradlog.analysis.reading.run import Run
from gradlog.analysis.reading.sketcher import Probe
from gradlog.errors import SpecMismatchError
from gradlog.format.header import RunHeader


@dataclasses.dataclass(frozen=True)
class ProbeCosines:
    """Cosine of a probe with the gradient of each step.

    Attributes
    ----------
    steps : int64 (rows,)
    value, low, high : float64 (rows,)
        Cosine with its sketch 95 % interval; NaN where one of the two is zero, or the row holds NaN or inf.
    """

    steps: NDArray[np.int64]
    value: Float64
    low: Float64
    high: Float64

    @property
    def against(self) -> NDArray[np.int64]:
        """Steps whose whole interval is negative: their gradients point against the probe."""
        return self.steps[self.high < 0]

    @property
    def along(self) -> NDArray[np.int64]:
        """Steps whose whole interval is positive."""
        return self.steps[self.low > 0]


@dataclasses.dataclass(frozen=True)
class Conflict:
    """Cosine of two probes with its sketch 95 % interval."""

    one: str
    other: str
    value: float
    low: float
    high: float

    @property
    def conflicting(self) -> bool:
        """Whether the whole interval is negative: a small step along one is a step against the other."""
        return self.high < 0


def probe_cosines(run: Run, probe: Probe, group: str | None = None) -> ProbeCosines:
    """Cosine of a probe with each recorded step, from one pass over the rows.

    Parameters
    ----------
    run : Run
    probe : Probe
        Of ``run.sketcher()``, or of a run with the same sketch, groups and tensors.
    group : str, optional
        Compare within this parameter group only.

    Returns
    -------
    ProbeCosines

    Raises
    ------
    SpecMismatchError
        The probe was sketched by another map.
    ValueError
        The run has no such group.

    Notes
    -----
    The interval covers the sketch's error: delete-one jackknife over the k coordinates, groups pooled. Minibatch noise
    is part of the gradient of a step and is not removed.

    Examples
    --------
    >>> run = open_run("run.zarr")                                                     # doctest: +SKIP
    >>> found = probe_cosines(run, run.sketcher().sketch(validation_gradient))         # doctest: +SKIP
    >>> found.against                                                                  # doctest: +SKIP
    array([116, 117])
    """
    _require_same_map(probe.header, run.sketcher().header, run.where)
    exact, at = _selected(probe.header, group)
    found = np.full((3, run.n_steps), np.nan)
    size = buffer_rows(run.rows)
    for start in range(0, run.n_steps, size):
        stop = min(start + size, run.n_steps)
        finite = run.finite[start:stop]
        rows = run.rows.read(start, stop).reshape(-1, run.n_groups, run.k)[finite][:, at]
        own: Float32 = np.broadcast_to(probe.sketch[at], rows.shape)
        found[:, start + np.flatnonzero(finite)] = cosine_intervals(own, rows, exact)
    return ProbeCosines(run.steps, *found)


def probe_conflicts(probes: Mapping[str, Probe], group: str | None = None) -> list[Conflict]:
    """Cosine of every pair of probes, such as one for each task.

    Parameters
    ----------
    probes : mapping
        Probes of one map by their names.
    group : str, optional
        Compare within this parameter group only, such as what the tasks share.

    Returns
    -------
    list of Conflict
        The most negative first; pairs without a cosine, where a probe is zero, last.

    Raises
    ------
    SpecMismatchError
        Two probes come from different maps.
    ValueError
        Fewer than two probes, or no such group.

    Examples
    --------
    >>> [pair] = probe_conflicts({"even": even, "large": large}, group="body")        # doctest: +SKIP
    >>> pair.conflicting                                                              # doctest: +SKIP
    False
    """
    if len(probes) < 2:
        raise ValueError(f"expected two probes or more, got {len(probes)}")
    pairs = list(itertools.combinations(probes, 2))
    first = next(iter(probes.values()))
    for name, probe in probes.items():
        _require_same_map(probe.header, first.header, f"probe {name!r}")
    exact, at = _selected(first.header, group)
    X, Y = (np.stack([probes[pair[side]].sketch[at] for pair in pairs]) for side in (0, 1))
    ends = zip(*(part.tolist() for part in cosine_intervals(X, Y, exact)), strict=True)
    found = [Conflict(*pair, *three) for pair, three in zip(pairs, ends, strict=True)]
    return sorted(found, key=lambda c: (np.isnan(c.value), c.value))


def _selected(header: RunHeader, group: str | None) -> tuple[tuple[bool, ...], list[int]]:
    """Places of the groups that are compared, and which of them carry no sketch error."""
    if group is not None and group not in header.groups:
        raise ValueError(f"no group {group!r}; the groups are {enumerate_some(header.groups)}")
    exact, at = exact_groups(header), [i for i, name in enumerate(header.groups) if group in (None, name)]
    return tuple(exact[i] for i in at), at


def _require_same_map(one: RunHeader, other: RunHeader, where: str) -> None:
    for name in ("sketch", "groups", "tensors"):
        if getattr(one, name) != getattr(other, name):
            raise SpecMismatchError(
                f"{where} has other {name} than the probe was sketched with; sketch the gradient by run.sketcher()"
            )
