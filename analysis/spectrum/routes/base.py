"""What the routes to a spectrum share: the sums of a scope, and spectra from the Grams that the pass kept of them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.reading.rows import RowSource
from gradlog.analysis.spectrum import rank, shuffled_rank, subspaces
from gradlog.analysis.spectrum.nystrom import Apply, Decomposition, nystrom, randomized
from gradlog.analysis.spectrum.rank import Spectrum
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.totals import Totals

GROUP_WIDTH, GROUPS_SIZE = 2048, 2**25
"""Coordinates of a group, and entries of all groups' Grams, up to which these are kept beside another route."""

BLOCK = 96
"""Columns of a random test matrix."""


@dataclasses.dataclass(frozen=True)
class Sums:
    """What the pass kept of view rows [start, stop): of all groups, or of one."""

    totals: Totals
    recipe: Recipe
    start: int
    stop: int
    group: int | None = None

    @property
    def columns(self) -> slice:
        """Columns of the group, or all."""
        k = self.recipe.k
        return slice(None) if self.group is None else slice(self.group * k, (self.group + 1) * k)

    @property
    def increment_energy(self) -> float:
        """||H||_F^2."""
        return float(self.totals["increment"][self.columns].sum())

    @property
    def pairs(self) -> int:
        """Rows of H."""
        return int(self.totals["pairs"])

    @property
    def pinched(self) -> Float64 | None:
        """What the Grams of the groups say of the spectrum of all columns, where the pass kept them."""
        return rank.pinched(self.totals["gram"]) if self.recipe.gram == "groups" and "gram" in self.totals else None

    def gram(self, suffix: str = "") -> Float64 | None:
        """Gram of these columns, of the increments or with ``"_rows"`` of the rows, where the pass kept it."""
        grams: Float64 | None = self.totals.get("gram" + suffix)
        if grams is None or (self.recipe.gram == "groups" and self.group is None and self.recipe.groups > 1):
            return None
        return np.asarray(grams[self.group or 0] if self.recipe.gram == "groups" else grams[self.columns, self.columns])


class Route(ABC):
    """A way to the spectra of a run's increments H, and the sentence that explains its choice.

    Attributes
    ----------
    method : str
        Name of the route.
    further : int
        How often it reads the rows beside the pass.
    """

    method: ClassVar[str]
    further: ClassVar[int] = 0
    asked: ClassVar[str]
    """The reason where this route was asked for."""

    def __init__(self, groups: int, k: int, reason: str = "") -> None:
        self.reason = reason or self.asked
        self._blocks = k <= GROUP_WIDTH and groups * k * k <= GROUPS_SIZE

    @staticmethod
    @abstractmethod
    def suits(rows: int, columns: int) -> str:
        """Say why this is the cheapest route for H of this shape, unless one before it is; empty if it is not."""

    def collect(self, recipe: Recipe, by_group: bool, light: bool, seed: int) -> Recipe:
        """Complete what the pass collects; ``light`` windows keep no Grams."""
        return dataclasses.replace(recipe, gram="groups" if by_group and self._blocks else "none")

    def memory(self, rows: int, columns: int) -> int:
        """Bytes that the route takes beside those of the pass."""
        return 0

    def read(self, source: RowSource, chains: NDArray[np.int64]) -> None:  # noqa: B027  # most need nothing
        """Read what the route needs beside the pass."""

    def spectrum(self, sums: Sums) -> Spectrum | None:
        """Spectrum of the increments; None where the pass kept nothing for it."""
        energy, size = sums.increment_energy, min(sums.pairs, sums.totals["increment"][sums.columns].size)
        if (gram := sums.gram()) is not None:
            return rank.of_products(gram, energy, size)
        if sums.group is not None or sums.recipe.test is None:
            return None
        found = randomized(nystrom(sums.recipe.basis, sums.totals["image"])[0], energy, size)
        return dataclasses.replace(found, leading=sums.pinched)

    def scatter(self, sums: Sums) -> Spectrum | None:
        """Spectrum of the rows about their mean, up to a common factor.

        None where the pass kept nothing for it, where there are no increments, or where the rows are as good as equal.
        """
        totals, recipe, columns = sums.totals, sums.recipe, sums.columns
        rows, total, energy = int(totals["rows"]), totals["total"][columns], float(totals["energy"][columns].sum())
        if not totals["pairs"] > 0:
            return None
        whole, size = 2 * (energy - float(np.square(total).sum()) / rows), min(rows - 1, len(total))
        if (gram := sums.gram("_rows")) is not None:
            found = rank.of_products(shuffled_rank.shuffled_gram(gram, total, rows), whole, size)
        elif sums.group is None and "image_rows" in totals and recipe.test is not None:
            image = 2 * (totals["image_rows"] - np.multiply.outer(total, total @ recipe.test) / rows)
            found = randomized(nystrom(recipe.basis, image)[0], whole, size)
        else:
            return None
        return shuffled_rank.resolved(found, energy)

    def leading(self, sums: Sums, count: int) -> Float64 | None:
        """Leading right singular vectors of H, (n, <= count); None where the pass kept nothing for them."""
        if (gram := sums.gram()) is not None:
            return subspaces.leading(gram, count)
        if sums.recipe.test is None:
            return None
        return nystrom(sums.recipe.basis, sums.totals["image"])[1][:, :count]

    def refined(self, sums: Sums, apply: Apply, passes: int, eps: tuple[float, ...]) -> Decomposition | None:
        """Go on by further passes, ``apply(V)`` = H^T H V, until every r*(eps) is certain; None where there is none."""
        return None
