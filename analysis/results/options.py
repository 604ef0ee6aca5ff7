"""What can be asked of an analysis, in a few objects. ``analyze`` takes each of their fields as a keyword."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypedDict, TypeVar

from gradlog.analysis.caching.cache import Cache
from gradlog.analysis.common.types import EPS, Progress
from gradlog.analysis.measures.predictors import Predictor
from gradlog.analysis.spectrum.routes import Method

Kernel = Literal["auto", "numpy", "numba"]
Predictors = str | Predictor | Iterable[str | Predictor] | None
Caching = Cache | bool | str | os.PathLike[str] | None
"""A folder; the user's own for True, none for False or None."""


@dataclasses.dataclass(frozen=True)
class Scope:
    """Which rows and groups are measured: all, and beside them windows, growing prefixes, groups alone, directions."""

    window: int | None = None
    stride: int | None = None
    prefixes: int = 0
    burn_in: int = 0
    by_group: bool = True
    light: bool = False
    sample: int | None = None
    steps_per_epoch: int | None = None
    directions: bool = False


@dataclasses.dataclass(frozen=True)
class Spectra:
    """How spectra are taken, and what of them is wanted."""

    svd: Method = "auto"
    passes: int = 2
    components: int = 0
    null_rank: bool = True
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class BoundInputs:
    """Inputs of the bounds that override what was logged or assumed."""

    eta: float | None = None
    lowest_loss: float | None = None
    diameter: float | None = None


@dataclasses.dataclass(frozen=True)
class Compute:
    """Where and with what it is computed: of no influence on the numbers."""

    scheduler: object = None  # a name, an address, a distributed client or an Executor
    memory: str | int | None = None
    progress: Progress | None = None
    kernel: Kernel = "auto"
    cache: Caching = None


Part = TypeVar("Part", Scope, Spectra, BoundInputs, Compute)


class Keywords(TypedDict, total=False):
    """Fields of these objects that every function takes which analyzes."""

    stride: int | None
    prefixes: int
    burn_in: int
    by_group: bool
    light: bool
    sample: int | None
    steps_per_epoch: int | None
    directions: bool
    svd: Method
    passes: int
    components: int
    null_rank: bool
    seed: int
    eta: float | None
    lowest_loss: float | None
    diameter: float | None
    scheduler: object
    memory: str | int | None
    progress: Progress | None
    kernel: Kernel


class Question(Keywords, total=False):
    """The same, and what ``analyze`` takes by position too."""

    predictors: Predictors
    eps: Sequence[float]
    window: int | None


@dataclasses.dataclass(frozen=True)
class Options:
    """All that is asked."""

    predictors: Predictors
    eps: tuple[float, ...]
    scope: Scope
    spectra: Spectra
    bounds: BoundInputs
    compute: Compute

    @classmethod
    def of(cls, predictors: Predictors = None, eps: Sequence[float] = EPS, **keywords: Any) -> Options:
        """Sort keywords into the objects that they are fields of. Any: ``Question`` has the type of each.

        Raises
        ------
        TypeError
            A keyword that is no field.
        ValueError
            eps that are no distinct numbers between 0 and 1.
        """
        eps = tuple(float(e) for e in eps)
        if not eps or not all(0 < e < 1 for e in eps) or len(set(eps)) < len(eps):
            raise ValueError(f"eps must be distinct numbers between 0 and 1, got {eps}")
        scope, spectra = _take(Scope, keywords), _take(Spectra, keywords)
        bounds, compute = _take(BoundInputs, keywords), _take(Compute, keywords)
        if keywords:
            raise TypeError(f"analyze() got an unexpected keyword argument {next(iter(keywords))!r}")
        return cls(predictors, eps, scope, spectra, bounds, compute)


def _take(part: type[Part], keywords: dict[str, Any]) -> Part:
    """Make an object of its keywords (Any, as above), which are then gone."""
    names = [field.name for field in dataclasses.fields(part) if field.name in keywords]
    return part(**{name: keywords.pop(name) for name in names})
