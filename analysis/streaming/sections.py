"""Small sums of equal stretches of steps inside the pass, by group: what ``fluctuation`` compares.

A section is a power of two rows of the view, counted from its start, so that a run keeps its sections until it is about
twice as long. They are cut inside the one pass: their sums merge as any other, and depend on the rows alone.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.streaming.ema import BETA_NODES, COARSE_NODES, settle
from gradlog.analysis.streaming.recipe import SUMS, Recipe
from gradlog.analysis.streaming.summary import Sections, Summary, edge
from gradlog.analysis.streaming.totals import Totals, contributions

SHORTEST, FEWEST_ROWS = 16, 200
"""Rows of the shortest section; rows below which a run has too few for a fluctuation."""

MOST = 40
"""Sections of a whole run, at most; half as many at least, from 321 rows on."""


def length(rows: int) -> int:
    """Rows of a section of a run of so many rows.

    >>> length(200), length(1000), length(10_000)
    (16, 32, 256)
    """
    return max(SHORTEST, 1 << math.ceil(math.log2(max(rows, MOST) / MOST)))


def thin(recipe: Recipe) -> Recipe:
    """Recipe of a section: sums by group, of the nodes of best-ema every third.

    >>> thin(Recipe(2, 8, betas=(0.5, *BETA_NODES))).betas == tuple(sorted((0.5, *COARSE_NODES)))
    True
    """
    skipped = set(BETA_NODES) - set(COARSE_NODES)
    betas = tuple(b for b in recipe.betas if b not in skipped or not set(BETA_NODES) <= set(recipe.betas))
    return dataclasses.replace(
        recipe,
        betas=tuple(sorted(betas)),
        gram="none",
        pooled=False,
        scatter=False,
        test=None,
        epoch=None,
        section=0,
        by_group=True,
    )


def of(summary: Summary, row: int) -> Sections:
    """Section of rows that lie in the same as ``row``; nothing where the recipe asks for none."""
    recipe = summary.recipe
    if not recipe.section:
        return ()
    small = Summary(thin(recipe))
    kept = [recipe.betas.index(b) for b in small.recipe.betas]
    for name in small.sums.keys() - {"edge"}:  # rows without a gap inside have no edge
        value = summary.sums[name][kept] if name == "p0" else summary.sums[name]
        small.sums[name] = value.copy() if SUMS[name].count else small.recipe.fold(value)
    if "segments" in summary.sums:
        small.sums["p0"] += settle(summary.sums["segments"], small.recipe.betas)
    for name in ("v", "c", "r", "d"):
        setattr(small, name, getattr(summary, name)[kept])
    small.head, small.tail = summary.head, summary.tail
    return ((row // recipe.section, small),)


def gap(recipe: Recipe, row: int) -> Summary:
    """Gap before a row, of its section too."""
    found = Summary.gap(recipe)
    if recipe.section:
        found.sections = ((row // recipe.section, Summary.gap(thin(recipe))),)
    return found


def history(rows: Float32, recipe: Recipe, row: int, within: Summary) -> Summary:
    """Return what the rows before a chain leave behind, in its section too; they are in none of the sums.

    Parameters
    ----------
    rows : float32 (m, n)
    recipe : Recipe
    row : int
        First row of the chain.
    within : Summary
        The one that will absorb it.
    """
    h = rows.copy()
    h[1:] -= rows[:-1]
    powers = recipe.beta ** np.arange(len(rows) - 1, -1, -1)  # r = h + beta r, from r = 0
    tail, r = rows[-recipe.history :].copy(), (powers.astype(np.float32) @ h).astype(np.float64)
    found = _recalled(Summary(recipe, within), tail, r)
    if recipe.section:
        small = thin(recipe)
        own = _recalled(Summary(small), tail, r[[recipe.betas.index(b) for b in small.betas]])
        found.sections = ((row // recipe.section, own),)
    return found


def _recalled(found: Summary, tail: Float32, r: Float64) -> Summary:
    """Begin with this history; ``edge`` counts the ends of chains, and here one goes on."""
    found.cut, found.tail, found.r = True, tail, r
    found.sums["edge"] -= found.recipe.fold(edge(tail, found.recipe.lags))
    return found


class Section(NamedTuple):
    """Sums by group of the rows that a section has in one pane."""

    pane: int
    number: int
    totals: Totals


def totals(panes: list[Summary]) -> list[Section]:
    """Sections of all panes, each given all history before it."""
    places = [(p, number) for p, pane in enumerate(panes) for number, _ in pane.sections]
    found = [summary.copy() for pane in panes for _, summary in pane.sections]
    return [Section(p, i, sums) for (p, i), sums in zip(places, contributions(found) if found else [], strict=True)]
