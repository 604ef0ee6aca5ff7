"""Exact Gram of the columns, H^T H: the cheapest route while there are few of them."""

from __future__ import annotations

import dataclasses

from gradlog.analysis.spectrum.nystrom import test_matrix
from gradlog.analysis.spectrum.routes.base import BLOCK, Route
from gradlog.analysis.streaming.recipe import Recipe

WIDTH = 1536
"""Columns up to which it is the cheapest."""


class Gram(Route):
    """See the module."""

    method = "gram"
    asked = "exact n x n Gram, as asked"

    @staticmethod
    def suits(rows: int, columns: int) -> str:
        """See Route."""
        return f"n = {columns} columns: the exact Gram is cheapest" if columns <= WIDTH else ""

    def collect(self, recipe: Recipe, by_group: bool, light: bool, seed: int) -> Recipe:
        """See Route. Light windows have the randomized spectrum after one pass."""
        test = test_matrix(recipe.n, BLOCK, seed) if light else None
        return dataclasses.replace(recipe, gram="full", test=test)
