"""The scopes of an analysis: ranges of rows, whole or by group, each a sum of panes of the one pass."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.blas_threads import single_threaded
from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.measures import gradient_noise, kappa, ranks, shares
from gradlog.analysis.measures.fluctuation import Blocks
from gradlog.analysis.measures.order_baseline import Order
from gradlog.analysis.measures.predictors import Evidence
from gradlog.analysis.measures.spec import Values
from gradlog.analysis.reading.rows import increment_rows
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results.execute import Collected
from gradlog.analysis.results.plan import AnalysisPlan, Range
from gradlog.analysis.spectrum import rank, shuffled_rank, subspaces
from gradlog.analysis.spectrum.nystrom import Decomposition
from gradlog.analysis.spectrum.rank import Spectrum
from gradlog.analysis.spectrum.routes import Sums
from gradlog.analysis.spectrum.shuffled_rank import ShuffledRank
from gradlog.analysis.streaming import scalar_sums, schedule
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.scalar_sums import BATCH, CLIP, CLIPPED, ScalarSums
from gradlog.analysis.streaming.sections import FEWEST_ROWS, thin
from gradlog.analysis.streaming.totals import Totals, add, contributions

SUBSPACE = 8
"""Dimensions of the leading subspaces compared between windows."""


class Scopes:
    """Values of any range that begins and ends at the plan's cuts, for all groups or one."""

    def __init__(self, run: Run, plan: AnalysisPlan, collected: Collected) -> None:
        self.run, self.plan, self.spec, self.recipe, self.collected = run, plan, plan.spec, plan.recipe, collected
        self.at = {cut: i for i, cut in enumerate(plan.cuts)}
        self.rotations = shuffled_rank.Rotations(plan.options.spectra.seed)
        self._last: tuple[Range, Totals] | None = None
        plan.route.read(run.rows, run.contiguous_ranges)

    def totals(self, r: Range) -> Totals:
        """Totals of the range's rows."""
        if self._last is None or self._last[0] != r:
            own = self.collected.grams if r == self.plan.whole else {}
            self._last = r, add(self.collected.panes[self.at[r.start] : self.at[r.stop]]) | own
        return self._last[1]

    def sums(self, r: Range, group: int | None = None) -> Sums:
        """Totals of the range's rows, of all groups or one."""
        return Sums(self.totals(r), self.recipe, r.start, r.stop, group)

    def values(
        self, r: Range, group: int | None = None, spectrum: Spectrum | None = None, full: bool = False
    ) -> Values:
        """All measures of a scope; ``full`` adds the rank behind the sketch."""
        sums = self.sums(r, group)
        spec, evidence = self.spec.within(group), Evidence(sums.totals, self.recipe.betas, sums.columns)
        spectrum = spectrum or self.spectrum(r, group)
        halves = self.collected.halves.blocks(r.start, r.stop, group) if self.collected.halves else None
        found = kappa.measure(evidence, self._energy(r, group), self._order(r), spec, self._batch(r), halves)
        found |= ranks.ranks(spectrum, self.shuffled(r, group), spec.eps) | _curves(spectrum)
        if full:
            found |= ranks.estimates(self._one_sketch(sums), self._limit(found, group), spec, found)
        return found

    def blocks(self, r: Range) -> Blocks | None:
        """Return sums of equal stretches of the range's steps; None where it is too short for them."""
        parts: dict[int, list[Totals]] = {}
        for pane, number, sums in self.collected.sections:
            if self.at[r.start] <= pane < self.at[r.stop] and sums["rows"] > 0:
                parts.setdefault(number, []).append(sums)
        if sum(float(p["rows"]) for own in parts.values() for p in own) < FEWEST_ROWS:
            return None
        return Blocks.of([add(own) for own in parts.values()], thin(self.recipe).betas, self.recipe.section)

    def groups(self, r: Range, whole: Values) -> list[Values]:
        """Measures of each group in a window or prefix, or but their shares in its path length and their noise."""
        own = shares.group_shares(Evidence(self.totals(r), self.recipe.betas), self.spec)
        known = map(partial(self._noise, r), range(self.run.n_groups)) if self.plan.light else self.each_group(r, whole)
        return [values | share for values, share in zip(known, own, strict=True)]

    def _noise(self, r: Range, group: int) -> Values:
        """Signal and noise of a group, where two gradients at one theta tell them."""
        halves = self.collected.halves.blocks(r.start, r.stop, group) if self.collected.halves else None
        return {} if halves is None else dict(gradient_noise.from_half_batches(halves, self._batch(r)))

    def each_group(self, r: Range, whole: Values, full: bool = False) -> list[Values]:
        """All measures of each group, given those of all; a single group has the same, by the Gram of all columns."""
        if self.run.n_groups == 1 and self.recipe.gram == "full":
            return [dict(whole)]
        return [self.values(r, g, full=full) for g in range(self.run.n_groups)]

    def spectrum(self, r: Range, group: int | None = None) -> Spectrum | None:
        """Spectrum of the increments."""
        return self.plan.route.spectrum(self.sums(r, group))

    def shuffled(self, r: Range, group: int | None) -> ShuffledRank | None:
        """Rank of the increments when the same rows come in random order; None where that was not asked for."""
        if not self.recipe.scatter or not self.totals(r)["pairs"] > 0:
            return None
        chains, eps = self._stretches(r), self.spec.eps
        lengths = np.diff(chains).ravel()
        scatter = self.plan.route.scatter(self.sums(r, group))
        if scatter is None:
            return None
        columns = self.run.rows.n if group is None else self.run.k
        whole = shuffled_rank.stretched(scatter, min(int(lengths.sum()) - 1, columns))  # the row before is not in it
        return self.rotations.rank(whole, lengths, eps)

    def _stretches(self, r: Range) -> NDArray[np.int64]:
        """Rows that the range's increments join, (stretches, 2): its own, and those just before it."""
        start, stop, before = self._chains(r)
        return np.stack([np.maximum(start - (before > 0), r.start - 1), np.minimum(stop, r.stop)], axis=1)

    def _chains(self, r: Range) -> NDArray[np.int64]:
        """Return starts and stops of the unbroken stretches that a range touches, and their history, (3, stretches)."""
        start, stop = self.run.contiguous_ranges.T
        before = np.zeros_like(start)
        for row, (low, high) in self.run.rows.history.items():
            before[start == row] = high - low
        return np.stack([start, stop, before])[:, (start < r.stop) & (stop > r.start)]

    def refined(self, r: Range) -> Decomposition | None:
        """Refine the spectrum by further passes over the rows until every r* is certain, where the route has any."""
        scheduler, memo = self.plan.options.compute.scheduler, self.collected.memo
        cuts = sorted({0, r.start, r.stop, self.run.n_steps})

        def apply(block: Float32) -> Float64:
            recipe = Recipe(self.run.n_groups, self.run.k, lags=0, gram="none", test=block, columns=False)
            panes = contributions(
                schedule.compute(self.run.rows, self.run.contiguous_ranges, cuts, recipe, scheduler, memo=memo)
            )
            image: Float64 = add(panes[cuts.index(r.start) : cuts.index(r.stop)])["image"]
            return image

        return self.plan.route.refined(self.sums(r), apply, self.plan.options.spectra.passes, self.spec.eps)

    def overlaps(self, windows: list[Range]) -> Values:
        """Overlap of the leading increment subspaces of every pair of windows, and of random ones."""
        bases = [b for r in windows if (b := self.leading(r, SUBSPACE)) is not None]
        if len(bases) < max(2, len(windows)):
            return {}
        r = min(b.shape[1] for b in bases)
        return {
            "window_overlap": subspaces.overlaps([b[:, :r] for b in bases]),
            "window_overlap_random": subspaces.random_overlap(self.run.rows.n, r),
        }

    def leading(self, r: Range, count: int) -> Float64 | None:
        """Leading right singular vectors, (n, <= count), where the pass allows them."""
        return self.plan.route.leading(self.sums(r), count)

    def components(self, r: Range, found: Decomposition | None, count: int) -> Values:
        """Right singular vectors (mode, group, k), their scores (increment, mode) by one more pass, and variance."""
        vectors = found.components[:, :count] if found else self.leading(r, count)
        if vectors is None:
            raise ValueError("components need svd='gram' or svd='nystrom'")
        scores = self.run.increments() @ vectors.astype(np.float32)
        with single_threaded():
            kept = np.asarray(scores.compute())
        steps = increment_rows(self.run.contiguous_ranges)
        inside = (steps >= r.start) & (steps < r.stop)
        energy = float(self.totals(r)["increment"].sum())
        variance = np.square(kept[inside], dtype=np.float64).sum(axis=0)
        return {
            "components": vectors.T.reshape(-1, self.run.n_groups, self.run.k),
            "scores": kept[inside],
            "explained_variance": variance / self.spec.scale**2,
            "explained_variance_ratio": variance / energy if energy > 0 else np.full(len(variance), np.nan),
            "increment_step": self.run.steps[steps[inside]],
        }

    def scalar_sums(self, r: Range) -> ScalarSums:
        """Add up the norms and scalars of the range's finite rows."""
        return scalar_sums.add(self.collected.scalar_sums[self.at[r.start] : self.at[r.stop]])

    def _order(self, r: Range) -> Order:
        """Past rows available at the range's rows, as a range for each chain, and where its epochs begin."""
        start, stop, before = self._chains(r)
        begin = start - before
        ages = np.stack([np.maximum(start, r.start) - begin, np.minimum(stop, r.stop) - begin], axis=1)
        if self.recipe.epoch is None:
            return Order(ages, np.zeros_like(start))
        (steps, first), every = self.recipe.epoch, self.run.header.every
        return Order(ages, (self.run.steps[start] - every * before - first) % steps // every, steps // every)

    def steps(self, r: Range) -> Values:
        """Which steps carry the path of ``last``."""
        totals = self.totals(r)
        found, listed = shares.step_shares(totals["path"], float(totals["last"].sum()))
        start, stop = np.clip(self.run.contiguous_ranges, r.start, r.stop).T
        past = np.cumsum(stop - start)
        chain = np.searchsorted(past, listed, "right")
        rows = stop[chain] - past[chain] + listed
        return found | {"path_step": self.run.steps[rows]}

    def clipping(self, r: Range) -> Values:
        """Share of the clipped steps, and the mean factor; nothing where none was logged."""
        columns = self.scalar_sums(r).scalars
        names = {CLIPPED: "clipped_share", CLIP: "clip_factor"}
        return {names[name]: column.mean for name, column in columns.items() if name in names}

    def _energy(self, r: Range, group: int | None) -> float:
        """Sum of the exact squared norms of the range's finite rows."""
        energy = self.scalar_sums(r).energy
        return float(energy.sum() if group is None else energy[group])

    def _batch(self, r: Range) -> float:
        """Mean batch size of all ranks that log their own gradients, NaN where it is not logged."""
        means = [column.mean for name, column in self.scalar_sums(r).scalars.items() if name in BATCH and column.count]
        return means[0] * (self.collected.halves.parts if self.collected.halves else 1) if means else float("nan")

    def _one_sketch(self, sums: Sums) -> Float64 | None:
        return sums.totals.get("pooled") if sums.group is None and self.run.n_groups > 1 else sums.gram()

    def _limit(self, found: Values, group: int | None) -> float:
        sizes = self.run.whole_header.group_sizes()
        return max(1.0, min(float(found["rows"]) - 1, sum(sizes) if group is None else sizes[group]))


def _curves(spectrum: Spectrum | None) -> Values:
    if spectrum is None:
        return {"singular_value": np.empty(0), "tail_energy": np.empty(0)}
    return {"singular_value": np.sqrt(spectrum.visible), "tail_energy": rank.tail_curve(spectrum)}
