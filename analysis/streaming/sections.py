"""Small sums of equal stretches of steps inside the pass, by group: what ``fluctuation`` compares.

A section is a power of two rows of the view, counted from its start, so that a run keeps its sections until it is about
twice as long. They are cut inside the one pass: their sums merge as any other, and depend on the rows alone.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from gradlog.analysis.streaming.ema import BETA_NODES, COARSE_NODES, settle
from gradlog.analysis.streaming.recipe import SUMS, Recipe
from gradlog.analysis.streaming.summary import Sections, Summary
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
