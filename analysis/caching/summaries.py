"""Summaries kept from one analysis to the next, by the digests of the chunks that they sum up.

The blocks of a pane fold from its start. So the sums of the first blocks do not change while the run grows. The state
of that fold is kept: the sums of its whole groups of blocks, and of the blocks after them. A later pass continues from
there. The fold is the same as without a cache, sum by sum: the numbers are the same to the last bit.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.caching.cache import Arrays, Cache, key
from gradlog.analysis.caching.fingerprints import chunk_digests
from gradlog.analysis.reading.rows import RowSource, block_rows, buffer_rows
from gradlog.analysis.streaming.epoch_sums import EpochSums
from gradlog.analysis.streaming.executors.base import Fold, Pane
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.sections import thin
from gradlog.analysis.streaming.summary import Summary
from gradlog.format.chain import digest

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run
    from gradlog.analysis.streaming.schedule import Fragment, RowPane

WORTH = 2.0
"""A summary is kept if the rows behind it are so many times its size."""

BATCH = 64
"""Blocks that are made, at least, before any of their panes is done with."""

Blocks = list[list["Fragment"]]


@dataclasses.dataclass
class PaneFold:
    """How far the fold of a pane is known.

    Attributes
    ----------
    blocks : list
        All blocks of the pane.
    keys : list of str
        Of the fold's state after 1, 2, ... blocks, as far as their contents are known.
    lasting : int
        Of these, blocks that no growth of the run changes: not the last one if it may be longer then.
    fold : Fold
    """

    blocks: Blocks
    keys: list[str]
    lasting: int
    fold: Fold[Summary]


class Memo:
    """Kept summaries of one run.

    Attributes
    ----------
    rows : int
        Rows whose summaries came from the cache.
    """

    def __init__(self, cache: Cache, run: Run) -> None:
        self.cache = cache
        self.rows = 0
        self._layout = [run.n_groups, run.k, run.header.codec, run.header.chunk]
        self._digests = {s.header.name: chunk_digests(run, s.header, cache) for s in run.segments}
        self._committed = {s.header.name: s.header.rows for s in run.segments}

    def summaries(
        self,
        source: RowSource,
        panes: list[Blocks],
        recipe: Recipe,
        compute: Callable[[list[RowPane]], list[Fold[Summary]]],
    ) -> list[Summary]:
        """Summaries of panes; ``compute`` makes what is not known of them yet."""
        what = [*self._layout, buffer_rows(source), recipe_key(recipe)]
        folds = [self._begin(source, pane, what, recipe) for pane in panes]
        for batch in _batches([f for f in folds if f.fold.at < len(f.blocks)]):
            for stops in ([f.lasting for f in batch], [len(f.blocks) for f in batch]):
                left = [(f, stop) for f, stop in zip(batch, stops, strict=True) if f.fold.at < stop]
                made = compute([Pane(f.blocks[f.fold.at : stop], f.fold) for f, stop in left])
                for (f, _), fold in zip(left, made, strict=True):
                    f.fold = fold
                    self._keep(f)
            for f in batch:
                f.fold = Fold(f.fold.at, f.fold.value(Summary.absorb))
        self.cache.trim()
        return [f.fold.value(Summary.absorb) for f in folds]

    def _begin(self, source: RowSource, pane: Blocks, what: list[object], recipe: Recipe) -> PaneFold:
        """Begin the fold of a pane with what is kept of as many blocks as possible."""
        known = itertools.takewhile(lambda x: x is not None, (self._block(source, b, recipe) for b in pane))
        keys = [*itertools.accumulate(known, key, initial=key("fold", what))][1:]
        full = bool(pane[-1]) and pane[-1][-1][1] % block_rows(source) == 0
        found = PaneFold(pane, keys, min(len(keys), len(pane) - (not full)), Fold())
        for count in range(len(keys), 0, -1):
            if (state := self.cache.recall(keys[count - 1], partial(_state, at=count, recipe=recipe))) is not None:
                found.fold = state
                break
        self.rows += _rows(pane[: found.fold.at])
        return found

    def _keep(self, f: PaneFold) -> None:
        """Keep the state of a fold, where it is known by what its rows are."""
        at, parts = f.fold.at, {"whole": f.fold.whole, "group": f.fold.group}
        state = {name: summary for name, summary in parts.items() if summary is not None}
        size = sum(summary.nbytes for summary in state.values())
        columns = next(iter(state.values())).recipe.n
        if at <= len(f.keys) and 4 * columns * _rows(f.blocks[:at]) >= WORTH * size:
            arrays = {f"{name}.{entry}": x for name, summary in state.items() for entry, x in pack(summary).items()}
            self.cache.put(f.keys[at - 1], arrays)

    def _block(self, source: RowSource, block: list[Fragment], recipe: Recipe) -> list[object] | None:
        """Content of a block; None where some rows are not in chunks, or no manifest vouches for them."""
        content: list[object] = []
        for start, stop, fresh in block:
            pieces = self._content(source, start, stop)
            if pieces is None:
                return None
            # which rows share an epoch; and where a buffer ends, which decides in which order float32 sums are made
            step = source.epoch_numbers(start, start + 1, (1, 0)).tolist() if recipe.epoch else []
            content.append([fresh, start % buffer_rows(source), pieces, *step])
        return content

    def _content(self, source: RowSource, start: int, stop: int) -> list[object] | None:
        found: list[object] = []
        for span in source.spans:
            low, high = max(start, span.start), min(stop, span.stop)
            for name, offset in span.members if low < high else ():
                first, last = offset + low - span.start, offset + high - span.start
                known = self._digests.get(name)
                if known is None or last > self._committed[name] or -(-last // source.chunk) > len(known):
                    return None
                chunks = known[first // source.chunk : -(-last // source.chunk)]
                found.append([first % source.chunk, last - first, chunks])
        return found


def _batches(folds: list[PaneFold]) -> list[list[PaneFold]]:
    """Cut panes into runs of enough blocks for all workers: what is kept of a pane on its way is twice its summary."""
    found: list[list[PaneFold]] = [[]]
    for each in folds:
        if sum(len(f.blocks) for f in found[-1]) >= BATCH:
            found.append([])
        found[-1].append(each)
    return found if folds else []


def _state(kept: Arrays, at: int, recipe: Recipe) -> Fold[Summary] | None:
    """Fold of the first ``at`` blocks; None if what is kept is not sound."""
    parts = [_below(kept, "whole."), _below(kept, "group.")]
    whole, group = (unpack(arrays, recipe) if arrays else None for arrays in parts)
    sound = any(parts) and all(bool(arrays) == (x is not None) for arrays, x in zip(parts, (whole, group), strict=True))
    return Fold(at, whole, group) if sound else None


def _rows(blocks: Blocks) -> int:
    return sum(stop - start for block in blocks for start, stop, _ in block)


def recipe_key(recipe: Recipe) -> list[object]:
    """JSON of a recipe, its test matrix by digest."""
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name != "test"}
    test = None if recipe.test is None else [recipe.test.shape, digest(np.ascontiguousarray(recipe.test).data)]
    return [fields, test]


def pack(summary: Summary) -> Arrays:
    """Arrays of a summary, by the names of its attributes."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, value in vars(summary).items():
        if isinstance(value, dict | EpochSums):
            parts = value if isinstance(value, dict) else value._asdict()
            arrays |= {f"{name}.{entry}": np.asarray(part) for entry, part in parts.items()}
        elif isinstance(value, frozenset):
            arrays[name] = np.array(sorted(value), "U")
        elif name == "sections":
            arrays[name] = np.array([number for number, _ in value], np.int64)
            for i, (_, section) in enumerate(value):
                arrays |= {f"{name}.{i}.{entry}": array for entry, array in pack(section).items()}
        elif name != "recipe":
            arrays[name] = np.asarray(value)
    if any(a.dtype.hasobject for a in arrays.values()):
        raise TypeError("a summary holds something that is no plain array")
    return arrays


def unpack(arrays: Arrays, recipe: Recipe) -> Summary | None:
    """Summary of these arrays; None if they are not what the recipe asks for."""
    summary = Summary(recipe)
    own, inside = _parted(arrays)
    expected = pack(summary)
    if own != expected.keys() or not all(_fits(arrays[name], expected[name]) for name in expected):
        return None
    for name, value in vars(summary).items():
        if isinstance(value, dict):
            setattr(summary, name, {entry: arrays[f"{name}.{entry}"] for entry in value})
        elif isinstance(value, EpochSums):
            parts = (arrays[f"{name}.{entry}"] for entry in value._fields)
            summary.epochs = EpochSums._make(x if x.ndim else x.item() for x in parts)
        elif isinstance(value, frozenset):
            setattr(summary, name, frozenset(arrays[name].tolist()))
        elif name == "sections":
            of_one = thin(recipe)
            found = [unpack(inside[str(i)], of_one) for i in range(len(arrays[name]))]
            if None in found:
                return None
            summary.sections = tuple(zip(arrays[name].tolist(), filter(None, found), strict=True))
        elif name != "recipe":
            setattr(summary, name, arrays[name] if isinstance(value, np.ndarray) else arrays[name].item())
    return summary


def _parted(arrays: Arrays) -> tuple[set[str], dict[str, dict[str, NDArray[np.generic]]]]:
    """Names of a summary's own arrays, and the arrays of its sections by their place."""
    own, inside = set[str](), defaultdict[str, dict[str, NDArray[np.generic]]](dict)
    for name, array in arrays.items():
        if name.startswith("sections."):
            _, place, entry = name.split(".", 2)
            inside[place][entry] = array
        else:
            own.add(name)
    return own, inside


def _fits(found: NDArray[np.generic], expected: NDArray[np.generic]) -> bool:
    """Whether an array is of the kind and shape that an empty summary has; what is empty there may have any length."""
    # names have any length, and large sums of a single block are still in float32
    kinds = found.dtype == expected.dtype or found.dtype.kind == expected.dtype.kind in ("U", "f")
    return (
        kinds
        and found.ndim == expected.ndim
        and all(f == e or e == 0 for f, e in zip(found.shape, expected.shape, strict=True))
    )


def _below(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
