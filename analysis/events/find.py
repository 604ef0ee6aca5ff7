"""Steps at which a run leaves its usual course: series out of their bands, jumps of the learning rate, NaN or inf.

Columns are judged as they come, block by block. Of each series a few stretches of rows are kept and no column, so that
memory does not grow with the run.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.events.band import WINDOW, Band, Departure, RunningBand, never_negative
from gradlog.analysis.reading.rewinds import rewinds
from gradlog.analysis.reading.rows import Block, buffer_rows
from gradlog.analysis.reading.run import Run
from gradlog.analysis.streaming.scalar_sums import CLIP, clipped_at_once

SCORE, GROUP_SCORE = 5.5, 7.0
"""Usual deviations from which on a series of the run, or of one of its many groups, has left its band.

Chosen on the trainings of ``benchmarks/events.py`` with even seeds; its other trainings measure what they miss and find
by mistake.
"""

RATIOS = {"loss": 1.2, "norm": 1.4, "change": 1.4}
"""Times the running median that a series must at least have reached: on a smooth run a nothing has a high score."""

LARGE_SCORE, LARGE_RATIO = 4.0, 10.0
"""So many deviations are enough for a value of so many times the running median: of series that vary by factors."""

JUMP = 2.0
"""Times the learning rate of the step before from which on it has jumped."""

MOST_GROUPS = 256
"""Groups whose norms are watched: where a run has more, those with the most parameters."""

APART = 5
"""Rows between two departures of one event."""

PIECE = 8192
"""Rows that are judged at a time."""

Judged = tuple[NDArray[np.bool_], Float64, Float64]
"""Which of some values are out of their band, their scores, and their ratios."""


class Stretch(NamedTuple):
    """Neighbouring rows, ``first`` to ``last``, in which a series was out of its band, and its values farthest out."""

    first: int
    last: int
    score: float
    ratio: float


class Series:
    """A series of a run, judged as its values come."""

    def __init__(self, name: str, judge: Callable[[Float64], Judged], rewinds: NDArray[np.int64], of_group: bool):
        self.name, self.judge, self.of_group, self.rewinds = name, judge, of_group, rewinds
        self.left: list[Stretch] = []
        self._rows = 0

    def add(self, values: Float64) -> Float64:
        """Judge the next values; return their ratios."""
        out, score, ratio = self.judge(values)
        at = np.flatnonzero(out)
        rows = at + self._rows
        self._rows += len(values)
        parts = (
            np.flatnonzero((np.diff(rows) > APART) | (np.diff(np.searchsorted(self.rewinds, rows, "right")) > 0)) + 1
        )
        for part in np.split(at, parts) if len(at) else ():
            far = part[np.argmax(np.nan_to_num(np.abs(score[part])))]
            first, last = (int(row) + self._rows - len(values) for row in (part[0], part[-1]))
            self.left.append(Stretch(first, last, float(score[far]), float(ratio[far])))
        return ratio

    def departure(self, steps: NDArray[np.int64], start: int, stop: int) -> Departure | None:
        """Tell what it did within an event, rows [start, stop) of these steps."""
        inside = self.left[bisect_left(self.left, (start,)) : bisect_left(self.left, (stop,))]
        if not inside:
            return None
        far = max(inside, key=lambda x: np.nan_to_num(abs(x.score)))
        return Departure(self.name, self.of_group, int(steps[inside[0].first]), far.score, far.ratio)


class Watch:
    """All series of a run.

    Attributes
    ----------
    names : list of str
        Scalars that have to be in the blocks.
    large : int64 array
        Rows in which the norm is far above its running median.
    series : list of Series
        Once all rows were seen.
    """

    def __init__(self, run: Run, window: int = WINDOW) -> None:
        self.run, self.window, known = run, window, run.scalar_names
        self.rewinds = rewinds(run.steps)
        self.rates, self.clip = learning_rates(known)[:1], clipping(run)
        self.names = [name for name in ("loss", *self.rates, self.clip) if name in known]
        self.loss = np.full(run.n_steps, np.nan)
        self.large = np.empty(0, np.int64)
        self._waiting: list[Block] = []
        self._norm = self._series("norm", _upwards("norm", window))
        self._rate = [self._series("lr", Jumps()) for _ in self.rates]
        self._nonfinite = self._series("non-finite", _nonfinite)
        of = np.argsort(-np.array(run.header.group_sizes()), kind="stable")[:MOST_GROUPS] if run.n_groups > 1 else ()
        self._groups = {int(g): self._series(run.groups[g], _upwards("", window), True) for g in sorted(of)}
        self.series: list[Series] = []

    def _series(self, name: str, judge: Callable[[Float64], Judged], of_group: bool = False) -> Series:
        return Series(name, judge, self.rewinds, of_group)

    def add(self, block: Block) -> None:
        """See the next rows."""
        self._waiting.append(block)
        if sum(len(b.finite) for b in self._waiting) >= PIECE:
            self._settle()

    def finish(self, changes: Iterable[Float64] | None = None) -> None:
        """See that no more rows come; ``changes``: norms of the difference from the row before, in pieces."""
        self._settle()
        found = [self._norm]
        if "loss" in self.names:
            loss = self._series("loss", _loss(RunningBand(self.window, never_negative(self.loss))))
            for start in range(0, len(self.loss), PIECE):
                loss.add(self.loss[start : start + PIECE])
            found.insert(0, loss)
        if changes is not None:
            change = self._series("change", _upwards("change", self.window))
            for piece in changes:
                change.add(piece)
            found.append(change)
        self.series = [*found, *self._rate, self._nonfinite, *self._groups.values()]

    def _settle(self) -> None:
        blocks, self._waiting = self._waiting, []
        if not blocks:
            return
        start, finite = blocks[0].start, np.concatenate([b.finite for b in blocks])
        norms = np.concatenate([before_clipping(b, self.clip) for b in blocks])
        scalars = {name: np.concatenate([b.scalars[name] for b in blocks]) for name in self.names}
        whole = np.where(finite, norms.sum(axis=1), np.nan)
        ratio = self._norm.add(np.sqrt(whole))
        self.large = np.append(self.large, start + np.flatnonzero(ratio >= RATIOS["norm"]))
        self._nonfinite.add(finite.astype(np.float64))
        for series, name in zip(self._rate, self.rates, strict=True):
            series.add(scalars[name])
        if "loss" in scalars:
            self.loss[start : start + len(finite)] = scalars["loss"]
        for g, series in self._groups.items():
            own = np.sqrt(norms[:, g])
            series.add(np.where(finite, own, np.where(np.isfinite(own), np.nan, np.inf)))

    def spans(self) -> Iterator[tuple[int, int]]:
        """Rows [start, stop) of each event: departures at most ``APART`` rows apart, on one side of a rewind."""
        left = sorted((x.first, x.last) for series in self.series for x in series.left)
        branch = np.searchsorted(self.rewinds, [first for first, _ in left], "right").tolist()
        start, stop, of = 0, 0, -1
        for (first, last), own in zip(left, branch, strict=True):
            if of != own or first - stop >= APART:
                if stop:
                    yield start, stop
                start, stop, of = first, last + 1, own
            stop = max(stop, last + 1)
        if stop:
            yield start, stop


def clipping(run: Run) -> str:
    """Name of the scalar by which all gradients of a run were multiplied; "" where none can be undone."""
    known = run.header.stage == "consumed" and run.header.what == "gradient"
    return CLIP if known and clipped_at_once(run.scalar_names) else ""


def before_clipping(block: Block, clip: str) -> Float64:
    """Squared norms (rows, group) of the gradient before it was clipped, where the run knows by how much.

    Clipping hides a jump of the gradient: all clipped norms are the same. One coefficient for all parameters can be
    undone.
    """
    if not clip:
        return block.norms
    coefficient = block.scalars[clip]
    known = np.isfinite(coefficient) & (coefficient > 0) & (coefficient <= 1)
    return block.norms / np.square(np.where(known, coefficient, 1.0))[:, None]


def learning_rates(scalars: Iterable[str]) -> list[str]:
    """Names of the logged learning rates."""
    return [name for name in scalars if name == "lr" or name.startswith("lr/")]


def change_norms(run: Run) -> Iterator[Float64]:
    """Norm of the difference from the row before, as the sketch shows it, in pieces; NaN where none came before."""
    size, begin = buffer_rows(run.rows), run.contiguous_ranges[:, 0]
    for start in range(0, run.n_steps, size):
        low, stop = max(start - 1, 0), min(start + size, run.n_steps)
        steps = np.diff(run.rows.read(low, stop), axis=0)
        norms = np.sqrt(np.einsum("tn,tn->t", steps, steps, dtype=np.float64))
        found = np.append(np.full(stop - start - len(norms), np.nan), norms)
        found[~run.finite[start:stop]] = np.nan
        found[begin[(begin >= start) & (begin < stop)] - start] = np.nan
        yield found


def _upwards(name: str, window: int) -> Callable[[Float64], Judged]:
    """Watch a norm, or with a name a series of the run."""
    least, usual = RATIOS.get(name, RATIOS["norm"]), SCORE if name else GROUP_SCORE
    running = RunningBand(window, least=least)

    def judge(values: Float64) -> Judged:
        found = running.add(values)
        return _far(found, usual, least) | (np.isposinf(values) if not name else False), found.score, found.ratio

    return judge


def _far(found: Band, usual: float, least: float) -> NDArray[np.bool_]:
    rare = (found.score > usual) & (np.isnan(found.ratio) | (found.ratio >= least))
    return np.asarray(rare | ((found.score > LARGE_SCORE) & (found.ratio >= LARGE_RATIO)))


def _loss(running: RunningBand) -> Callable[[Float64], Judged]:
    """Watch the loss, which may be infinite where the gradient is not."""

    def judge(values: Float64) -> Judged:
        found, infinite = running.add(values), np.isposinf(values)
        score, ratio = (np.where(infinite, np.inf, x) for x in (found.score, found.ratio))
        return _far(found, SCORE, RATIOS["loss"]) | infinite, score, ratio

    return judge


def _nonfinite(finite: Float64) -> Judged:
    none = np.full(len(finite), np.nan)
    return finite == 0, none, none


class Jumps:
    """Where a learning rate jumps up, after the first steps, in which it may warm up from nothing."""

    def __init__(self) -> None:
        self.rows, self.before = 0, np.nan

    def __call__(self, rate: Float64) -> Judged:
        """Judge the next rates."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = rate / np.append(self.before, rate[:-1])
        jumped = (ratio >= JUMP) & np.isfinite(ratio) & (self.rows + np.arange(len(rate)) >= WINDOW // 2)
        self.rows, self.before = self.rows + len(rate), rate[-1]
        return jumped, np.full(len(rate), np.nan), ratio
