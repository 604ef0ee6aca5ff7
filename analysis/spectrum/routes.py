"""Which route to the spectrum fits a run, and the spectra of its scopes from what the pass kept."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.spectrum import rank, shuffled_rank
from gradlog.analysis.spectrum.nystrom import nystrom
from gradlog.analysis.spectrum.rank import Spectrum
from gradlog.analysis.streaming.summary import Recipe, Totals

Method = Literal["auto", "gram", "rows", "nystrom"]

GRAM_WIDTH, GROUP_WIDTH, ROWS, BLOCK = 1536, 2048, 1024, 96
ROW_BYTES = 192 * 2**20


@dataclasses.dataclass(frozen=True)
class Route:
    """A choice of method and the sentence that explains it.

    ``blocks`` says whether k x k Grams of single groups are affordable.
    """

    method: str
    reason: str
    blocks: bool

    def gram(self, by_group: bool) -> str:
        """Name the recipe's Gram."""
        if self.method == "gram":
            return "full"
        return "groups" if by_group and self.blocks else "none"


def choose(svd: str, rows: int, groups: int, k: int) -> Route:
    """Route to the spectrum of rows x (groups x k) increments.

    Raises
    ------
    ValueError
        Unknown method.
    """
    n = groups * k
    blocks = k <= GROUP_WIDTH and groups * k * k <= 2**25
    if svd == "gram":
        return Route("gram", "exact n x n Gram, as asked", True)
    if svd == "rows":
        return Route("rows", "exact Gram of the rows, as asked", blocks)
    if svd == "nystrom":
        return Route("nystrom", "randomized, as asked", blocks)
    if svd != "auto":
        raise ValueError(f"svd must be 'auto', 'gram', 'rows' or 'nystrom', got {svd!r}")
    if n <= GRAM_WIDTH:
        return Route("gram", f"n = {n} columns: the exact Gram is cheapest", True)
    if rows <= ROWS and 8 * rows * n <= ROW_BYTES:
        return Route("rows", f"{rows} rows of {n} columns: the exact Gram of the rows is cheapest", blocks)
    return Route("nystrom", f"n = {n} columns, {rows} rows: randomized, one pass and a second if r* stays open", blocks)


def gram_of(totals: Totals, recipe: Recipe, group: int | None, suffix: str = "") -> Float64 | None:
    """Gram of all columns or of one group's, where the pass kept it."""
    grams: Float64 | None = totals.get("gram" + suffix)
    if grams is None or (recipe.gram == "groups" and group is None and recipe.groups > 1):
        return None
    if recipe.gram == "groups":
        own: Float64 = grams[group or 0]
        return own
    columns = columns_of(group, recipe.k)
    block: Float64 = grams[columns, columns]
    return block


def columns_of(group: int | None, k: int) -> slice:
    """Columns of a group, or all."""
    return slice(None) if group is None else slice(group * k, (group + 1) * k)


def spectrum(totals: Totals, recipe: Recipe, group: int | None) -> Spectrum | None:
    """Spectrum of the increments of a scope, None where the pass kept nothing for it."""
    columns, gram = totals["increment"][columns_of(group, recipe.k)], gram_of(totals, recipe, group)
    size = min(int(totals["pairs"]), len(columns))
    if gram is not None:
        return rank.of_products(gram, float(columns.sum()), size)
    if group is not None or recipe.test is None:
        return None
    return tightened(randomized(nystrom(recipe.basis, totals["image"])[0], float(columns.sum()), size), totals, recipe)


def randomized(energies: Float64, total: float, size: int) -> Spectrum:
    """Incomplete spectrum from a Nystrom approximation, of at most ``size`` energies."""
    return Spectrum(energies, total, complete=False, rounding=rank.ROUNDING * total).within(size)


def tightened(found: Spectrum, totals: Totals, recipe: Recipe) -> Spectrum:
    """Spectrum of all columns with what the Grams of the groups say of it, where the pass kept them."""
    blocks = totals.get("gram")
    if found.complete or blocks is None or recipe.gram != "groups":
        return found
    return dataclasses.replace(found, leading=rank.pinched(blocks))


def scatter(totals: Totals, recipe: Recipe, group: int | None) -> Spectrum | None:
    """Spectrum of the rows about their mean, up to a common factor.

    None where the pass kept nothing for it, where there are no increments, or where the rows are as good as equal.
    """
    columns = columns_of(group, recipe.k)
    rows, total, energy = int(totals["rows"]), totals["total"][columns], float(totals["energy"][columns].sum())
    if not totals["pairs"] > 0:
        return None
    whole, size = 2 * (energy - float(np.square(total).sum()) / rows), min(rows - 1, len(total))
    gram = gram_of(totals, recipe, group, "_rows")
    if gram is not None:
        found = rank.of_products(shuffled_rank.shuffled_gram(gram, total, rows), whole, size)
    elif group is None and "image_rows" in totals and recipe.test is not None:
        image = 2 * (totals["image_rows"] - np.multiply.outer(total, total @ recipe.test) / rows)
        found = randomized(nystrom(recipe.basis, image)[0], whole, size)
    else:
        return None
    return shuffled_rank.resolved(found, energy)


def of_rows(rows_gram: Float64, keep: NDArray[np.bool_], total: float, columns: int) -> Spectrum:
    """Spectrum from a Gram of rows H H^T with so many columns, restricted to the rows ``keep``."""
    return rank.of_products(rows_gram[np.ix_(keep, keep)], total, min(int(keep.sum()), columns))


def scatter_of_rows(rows_gram: Float64, columns: int) -> Spectrum | None:
    """Spectrum of the rows about their mean, from G G^T: doubly centred it has the eigenvalues of the scatter."""
    centred = rows_gram - rows_gram.mean(0) - rows_gram.mean(1)[:, None] + rows_gram.mean()
    energy, size = float(np.trace(rows_gram)), min(len(rows_gram) - 1, columns)
    return shuffled_rank.resolved(rank.of_products(2 * centred, 2 * float(np.trace(centred)), size), energy)
