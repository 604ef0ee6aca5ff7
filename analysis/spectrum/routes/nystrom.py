"""Randomized, for many columns and rows: the image of a random block; further passes where it leaves r* open."""

from __future__ import annotations

import dataclasses

from gradlog.analysis.spectrum.nystrom import Apply, Decomposition, refine, test_matrix
from gradlog.analysis.spectrum.routes.base import BLOCK, Route, Sums
from gradlog.analysis.streaming.recipe import Recipe


class Nystrom(Route):
    """See the module, and ``spectrum.nystrom`` for the mathematics."""

    method = "nystrom"
    asked = "randomized, as asked"

    @staticmethod
    def suits(rows: int, columns: int) -> str:
        """See Route."""
        return f"n = {columns} columns, {rows} rows: randomized, one pass and a second if r* stays open"

    def collect(self, recipe: Recipe, by_group: bool, light: bool, seed: int) -> Recipe:
        """See Route."""
        recipe = super().collect(recipe, by_group, light, seed)
        return dataclasses.replace(recipe, test=test_matrix(recipe.n, BLOCK, seed))

    def refined(self, sums: Sums, apply: Apply, passes: int, eps: tuple[float, ...]) -> Decomposition | None:
        """See Route."""
        assert sums.recipe.test is not None
        image, energy = sums.totals["image"], sums.increment_energy
        return refine(apply, sums.recipe.test, image, energy, passes, eps, rows=sums.pairs, leading=sums.pinched)
