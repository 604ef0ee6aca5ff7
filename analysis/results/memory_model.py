"""Peak memory of an analysis, predicted from its recipe; refused before the first byte is read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from gradlog.analysis.events.find import PIECE
from gradlog.analysis.reading.rows import RowSource, block_rows, buffer_rows
from gradlog.analysis.spectrum import shuffled_rank
from gradlog.analysis.streaming.ema import segments_at_once
from gradlog.analysis.streaming.grams import parts
from gradlog.analysis.streaming.kernel import tile_rows
from gradlog.analysis.streaming.recipe import SUMS, Recipe
from gradlog.analysis.streaming.sections import MOST, thin
from gradlog.errors import MemoryLimitError
from gradlog.format.sizes import parse_size

LIBRARIES = 96 * 2**20
"""Imports, allocator slack and decoded chunks that are not there yet when the prediction is made."""

ROW = 40
"""Bytes of a row that are kept apart from its sketch: its loss, and its squared error while that is joined, sorted and
summed."""

BREAK = 512
"""Bytes of a gap or a stretch: a few numbers each, and its entry in the record of the run."""

COMPILER = 64 * 2**20
"""What numba and its compiled loops add."""


def summary_bytes(recipe: Recipe) -> int:
    """Size of one summary."""
    sums = sum(8 * math.prod(shape) for shape in recipe.shapes().values())
    return sums + 8 * recipe.n * (2 * len(recipe.betas) + recipe.history)


def sections_bytes(recipe: Recipe) -> int:
    """Size of all sections of a run: their open ends by column, and what merging and adding up takes."""
    small = thin(recipe)
    one = 8 * recipe.n * (2 * len(small.betas) + small.history)
    return (MOST + 4) * one if recipe.section else 0


def working_set(recipe: Recipe, source: RowSource, panes: int, tasks: int) -> int:
    """Bytes of a pass: per task a buffer, a tile, products and two summaries of half size; per pane a whole one."""
    rows, B = min(buffer_rows(source), len(source)), len(recipe.betas)
    buffer = 4 * recipe.n * rows
    chunk = 2 * 4 * recipe.n * min(source.chunk, len(source))
    tile = 4 * recipe.n * (3 * min(tile_rows(recipe.n), rows) + 4 * B * segments_at_once(B, recipe.n))
    grams = 4 * parts(recipe) * sum(math.prod(shape) for name, shape in recipe.shapes().items() if SUMS[name].product)
    one = summary_bytes(recipe)
    blocks = -(-len(source) // block_rows(source)) + panes
    folded = panes + 1 + min(blocks, 2) + min(blocks, tasks) / 2  # two of the fold, and what waits for its turn
    return int(tasks * (buffer + chunk + tile + grams + one) + folded * one) + sections_bytes(recipe)


def afterwards(recipe: Recipe) -> int:
    """Bytes to take the spectra of a scope from its totals."""
    largest = 8 * {"full": recipe.n, "groups": recipe.k, "none": 0}[recipe.gram] ** 2
    wide = 0 if recipe.test is None else 12 * 8 * recipe.n * recipe.test.shape[1]
    moments = 8 * recipe.n * (recipe.lags + 1) ** 2
    return 6 * largest + wide + 2 * moments


def predict(
    passes: Sequence[tuple[Recipe, Sequence[int]]],
    source: RowSource,
    tasks: int,
    breaks: int = 0,
    components: int = 0,
) -> int:
    """Predicted peak resident memory of this process, in bytes.

    It does not grow with the number of rows times their width. Kept are a few bytes per row, an entry for each of the
    ``breaks`` (gaps and stretches of finite rows), and the scores of ``components``, which every row has.

    Parameters
    ----------
    passes : sequence of (Recipe, cuts)
        What is collected, and between which rows; of all but the last one pane is kept.
    """
    compiler = COMPILER if any(recipe.kernel == "numba" for recipe, _ in passes) else 0
    scores = (40 + 24 * components) * len(source) if components else 0
    kept, peak = 0, 0
    for recipe, cuts in passes:
        panes = len(cuts) - 1
        peak = max(peak, kept + working_set(recipe, source, panes, tasks))
        kept += summary_bytes(recipe)
    last = sum(afterwards(recipe) for recipe, _ in passes)
    if any(recipe.scatter for recipe, _ in passes):
        last += shuffled_rank.kept_bytes(len(source), source.n)
    watched = 16 * PIECE * source.n_groups
    return compiler + resident() + LIBRARIES + peak + last + BREAK * breaks + ROW * len(source) + watched + scores


def resident() -> int:
    """Resident memory of this process now, 0 where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def check(predicted: int, limit: str | int | float | None) -> None:
    """Refuse when the prediction exceeds the limit.

    Raises
    ------
    MemoryLimitError
        With what would make it fit.
    """
    if limit is not None and predicted > parse_size(limit):
        raise MemoryLimitError(
            f"predicted peak memory {predicted / 2**20:.0f} MiB exceeds the limit of {limit}; "
            "use light=True, fewer or longer windows, svd='nystrom', by_group=False, or fewer predictors"
        )
