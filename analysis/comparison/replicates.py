"""Configurations compared over repeated trainings: what two optimizers do, not what two runs did.

A configuration is a set of runs that differ in their seed alone. Its kappa is the mean over them, with the standard
deviation between them. The difference of two configurations is taken over the seeds they share (a paired t interval),
or else by Welch's (1947). The p values of all differences that are shown are adjusted together (Holm 1979).

The sketch's error lies within the spread between runs only where every run has a random map of its own. Runs of one
sketch seed share their error: it moves all of them alike, so that its part is added to the interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Protocol

import numpy as np
from scipy.special import stdtr, stdtrit

from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.predictors.registry import without_reference
from gradlog.analysis.results.forms.json_document import Document
from gradlog.errors import UnusableInputError


class Measured(Protocol):
    """A run that was analyzed: its label, its notes, and ``to_json`` of its analysis."""

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def notes(self) -> Mapping[str, object]: ...  # noqa: D102
    @property
    def document(self) -> Document: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean over ``n`` runs, their standard deviation ``sd``, and the ends of its 95 % interval; NaN of a single run."""

    value: float
    sd: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seed alone.

    Attributes
    ----------
    label : str
    seeds : tuple of str
        What tells the runs apart, in their order.
    runs : tuple of str
        Their labels.
    kappa : dict of Mean
        By predictor.
    values : dict of float64 (n,)
        Kappa of each run, by predictor.
    """

    label: str
    seeds: tuple[str, ...]
    runs: tuple[str, ...]
    kappa: Mapping[str, Mean]
    values: Mapping[str, Float64]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Kappa of one configuration less that of another.

    ``seeds``: pairs of runs with the same seed, 0 where the two share none and Welch's interval is given; ``p``:
    adjusted for all differences of the comparison.
    """

    first: str
    second: str
    predictor: str
    value: float
    low: float
    high: float
    seeds: int
    p: float

    @property
    def sentence(self) -> str:
        """As a paper prints it.

        >>> Difference("AdamW", "momentum", "last", -0.105, -0.143, -0.067, 5, 0.004).sentence
        'AdamW - momentum, last: -0.105 ± 0.038, 5 paired seeds, p = 0.004'
        """
        over = f"{self.seeds} paired seeds" if self.seeds else "no shared seeds (Welch)"
        chance = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        half = (self.high - self.low) / 2
        return f"{self.first} - {self.second}, {self.predictor}: {self.value:+.3f} ± {half:.3f}, {over}, {chance}"


@dataclasses.dataclass(frozen=True)
class Replicates:
    """Configurations in the order of their first run, differences of all pairs, and what limits them."""

    by: tuple[str, ...]
    replicate: str
    configurations: tuple[Configuration, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]


def replicates(
    rows: Sequence[Measured], predictors: Sequence[str], by: Sequence[str] = (), replicate: str = "seed"
) -> Replicates | None:
    """Gather the runs of a comparison into configurations.

    Parameters
    ----------
    rows : sequence of Measured
        Runs side by side
    predictors : sequence of str
    by : sequence of str
        Notes of the runs whose values name a configuration. None: all notes but ``replicate``, and of them those that
        differ name it.
    replicate : str
        Note that tells the runs of one configuration apart.

    Returns
    -------
    Replicates or None
        None where ``by`` is empty and no two runs agree in everything but ``replicate``.

    Raises
    ------
    UnusableInputError
        A run lacks one of the notes in ``by``.
    """
    groups = _grouped(rows, by) if by else _inferred(rows, replicate)
    if not by and max(map(len, groups.values()), default=0) < 2:
        return None
    shown = without_reference(predictors)
    sketched = {label: _sketch_half_widths(members, shown) for label, members in groups.items()}
    found = [_configuration(label, members, sketched[label], replicate) for label, members in groups.items()]
    differences = [_difference(a, b, p, sketched) for a, b in combinations(found, 2) for p in shown]
    adjusted = holm([d.p for d in differences])
    differences = [dataclasses.replace(d, p=p) for d, p in zip(differences, adjusted, strict=True)]
    known = tuple(d for d in differences if np.isfinite(d.low))
    return Replicates(tuple(by), replicate, tuple(found), known, tuple(_warnings(groups, by, replicate)))


def mean_of(values: Float64, sketch_half_width: float = 0.0) -> Mean:
    """Mean with its t interval, widened by the half-width of a sketch error that all values share."""
    n = len(values)
    sd = float(values.std(ddof=1)) if n > 1 else float("nan")
    half = np.hypot(stdtrit(n - 1, 0.975) * sd / np.sqrt(n), sketch_half_width) if n > 1 else float("nan")
    value = float(values.mean())
    return Mean(value, sd, value - float(half), value + float(half), n)


def welch(first: Float64, second: Float64) -> tuple[float, float]:
    """Return standard error and degrees of freedom of a difference of means, each of its own variance (Welch 1947)."""
    a, b = (x.var(ddof=1) / len(x) for x in (first, second))
    if a + b == 0:
        return 0.0, float(len(first) + len(second) - 2)
    return float(np.sqrt(a + b)), float((a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm 1979); NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    order = [i for i in np.argsort(values) if np.isfinite(values[i])]
    out = np.full(len(values), np.nan)
    least = 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * values[i]))
        out[i] = least
    return [float(x) for x in out.round(12)]


def _grouped(rows: Sequence[Measured], by: Sequence[str]) -> dict[str, list[Measured]]:
    for row in rows:
        for name in by:
            if name not in row.notes:
                known = ", ".join(sorted(row.notes)) or "none"
                raise UnusableInputError(f"{row.label} has no note {name!r} to group by; its notes: {known}")
    return _by_label(rows, lambda row: ", ".join(str(row.notes[name]) for name in by))


def _inferred(rows: Sequence[Measured], replicate: str) -> dict[str, list[Measured]]:
    """Gather runs that agree in all notes but ``replicate``, and have that one; the first that differ name them."""
    noted = [row for row in rows if replicate in row.notes]
    names = list(dict.fromkeys(name for row in noted for name in row.notes if name != replicate))
    differing = [name for name in names if len({str(row.notes.get(name)) for row in noted}) > 1]

    def values(row: Measured, of: Sequence[str]) -> str:
        return ", ".join(f"{name}={row.notes[name]}" for name in of if name in row.notes)

    counts = [len({values(row, differing[:n]) for row in noted}) for n in range(len(differing) + 1)]
    enough = differing[: counts.index(counts[-1])]
    return _by_label(noted, lambda row: values(row, enough) or "all runs")


def _by_label(rows: Sequence[Measured], label: Callable[[Measured], str]) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {}
    for row in rows:
        found.setdefault(label(row), []).append(row)
    return found


def _configuration(
    label: str, members: list[Measured], half_widths: Mapping[str, float], replicate: str
) -> Configuration:
    values = {p: np.array([_number(row.document["kappa"][p]["value"]) for row in members]) for p in half_widths}
    kappa = {p: mean_of(values[p], half_width) for p, half_width in half_widths.items()}
    seeds = tuple(str(row.notes.get(replicate, row.label)) for row in members)
    return Configuration(label, seeds, tuple(row.label for row in members), kappa, values)


def _sketch_half_widths(members: list[Measured], predictors: Sequence[str]) -> dict[str, float]:
    """Part of the sketch that the runs share: their mean half-width where one map serves all, else none."""
    if not _one_map(members):
        return dict.fromkeys(predictors, 0.0)
    ends = {
        p: [(row.document["kappa"][p]["low"], row.document["kappa"][p]["high"]) for row in members] for p in predictors
    }
    return {p: float(np.mean([(_number(b) - _number(a)) / 2 for a, b in pairs])) for p, pairs in ends.items()}


def _one_map(members: Sequence[Measured]) -> bool:
    seeds = [row.document["run"]["seed"] for row in members if row.document["run"]["kind"] != "exact/1"]
    return len(seeds) > 1 and len(set(seeds)) < len(seeds)


def _difference(a: Configuration, b: Configuration, p: str, sketched: Mapping[str, Mapping[str, float]]) -> Difference:
    x, y = a.values[p], b.values[p]
    pairs = _pairs(a, b)
    if len(pairs) > 1:
        gaps = np.array([x[i] - y[j] for i, j in pairs])
        value, error, freedom = float(gaps.mean()), float(gaps.std(ddof=1) / np.sqrt(len(gaps))), len(gaps) - 1.0
    elif len(x) > 1 and len(y) > 1:
        pairs, value = [], float(x.mean() - y.mean())
        error, freedom = welch(x, y)
    else:
        nan = float("nan")
        return Difference(a.label, b.label, p, float(x.mean() - y.mean()), nan, nan, 0, nan)
    shared = float(np.hypot(sketched[a.label][p], sketched[b.label][p]))
    quantile = float(stdtrit(freedom, 0.975))
    half = float(np.hypot(quantile * error, shared))
    whole = half / quantile  # the standard error that this half-width belongs to
    chance = float(2 * stdtr(freedom, -abs(value) / whole)) if whole > 0 else float(value == 0)
    return Difference(a.label, b.label, p, value, value - half, value + half, len(pairs), chance)


def _pairs(a: Configuration, b: Configuration) -> list[tuple[int, int]]:
    """Places of the runs that have the same seed; none where a seed occurs twice."""
    if len(set(a.seeds)) < len(a.seeds) or len(set(b.seeds)) < len(b.seeds):
        return []
    return [(i, b.seeds.index(seed)) for i, seed in enumerate(a.seeds) if seed in b.seeds]


def _warnings(groups: Mapping[str, list[Measured]], by: Sequence[str], replicate: str) -> list[str]:
    found = []
    if any(_one_map(members) for members in groups.values()):
        found.append(
            "runs share a sketch seed, and with it the sketch's error: it is added to the intervals. "
            "Record each run with a seed of its own (seed=...) to have it in the spread"
        )
    for label, members in groups.items():
        if len(members) < 2:
            found.append(f"{label}: a single run, so that no spread is known")
        if len({str(row.notes.get(replicate)) for row in members}) < len(members):
            found.append(f"{label}: several runs have the same {replicate}, or none")
        mixed = sorted(
            name
            for name in {n for row in members for n in row.notes} - {replicate, *by}
            if len({str(row.notes.get(name)) for row in members}) > 1
        )
        if by and mixed:
            found.append(f"{label}: its runs differ in more than {replicate}: {', '.join(mixed)}")
    return found


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
