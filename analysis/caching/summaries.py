"""Summaries kept from one analysis to the next, by the digests of the chunks that they sum up.

The blocks of a pane fold from its start. So the sums of the first blocks do not change while the run grows. The state
of that fold is kept: the sums of its whole groups of blocks, and of the blocks after them. A later pass continues from
there. The fold is the same as without a cache, sum by sum: the numbers are the same to the last bit.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.caching.cache import Cache, key
from gradlog.analysis.caching.fingerprints import chunk_digests
from gradlog.analysis.reading.rows import RowSource, block_rows
from gradlog.analysis.streaming.epoch_sums import EpochSums
from gradlog.analysis.streaming.executors.base import FAN, Pane, fold
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
    whole, group, at : Summary or None, Summary or None, int
        State after ``at`` blocks: see ``executors.base.fold``.
    """

    blocks: Blocks
    keys: list[str]
    lasting: int
    whole: Summary | None = None
    group: Summary | None = None
    at: int = 0

    @property
    def grouped(self) -> int:
        """Lasting blocks in whole groups."""
        return self.lasting // FAN * FAN

    def rest(self, stop: int | None = None) -> RowPane:
        """Name what is left to fold of the first blocks, or of all."""
        return Pane(self.blocks[self.at : stop], self.whole, self.group, self.at % FAN)


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
        buffer: int,
        compute: Callable[[list[RowPane]], list[Summary]],
    ) -> list[Summary]:
        """Summaries of panes; ``compute`` makes what is not known of them yet."""
        what = [*self._layout, buffer, recipe_key(recipe)]
        folds = [self._begin(source, pane, what, recipe) for pane in panes]
        done = [f.at == len(f.blocks) for f in folds]
        left = [f for f, known in zip(folds, done, strict=True) if not known]
        fresh = iter([summary for batch in _batches(left) for summary in self._go_on(batch, compute)])
        self.cache.trim()
        return [
            fold((), Summary.absorb, f.whole, f.group) if known else next(fresh)
            for f, known in zip(folds, done, strict=True)
        ]

    def _begin(self, source: RowSource, pane: Blocks, what: list[Any], recipe: Recipe) -> PaneFold:
        """Begin the fold of a pane with what is kept of as many blocks as possible."""
        known = itertools.takewhile(lambda x: x is not None, (self._block(source, b, what, recipe) for b in pane))
        keys = [*itertools.accumulate(known, key, initial=key("fold", what))][1:]
        full = bool(pane[-1]) and pane[-1][-1][1] % block_rows(source) == 0
        found = PaneFold(pane, keys, min(len(keys), len(pane) - (not full)))
        for count in range(len(keys), 0, -1):
            if (state := self.cache.recall(keys[count - 1], lambda kept: _state(kept, recipe))) is not None:
                found.at, (found.whole, found.group) = count, state
                break
        self.rows += _rows(pane[: found.at])
        return found

    def _go_on(self, left: list[PaneFold], compute: Callable[[list[RowPane]], list[Summary]]) -> list[Summary]:
        """Fold on from what is known, and keep what will be known."""
        bodies = [f for f in left if f.at < f.grouped]
        for f, summary in zip(bodies, compute([f.rest(f.grouped) for f in bodies]), strict=True):
            f.whole, f.group, f.at = summary, None, f.grouped
        heads = [f for f in left if f.at < f.lasting]
        for f, summary in zip(heads, compute([f.rest(f.lasting)._replace(whole=None) for f in heads]), strict=True):
            f.group, f.at = summary, f.lasting
        for f in {id(f): f for f in (*bodies, *heads)}.values():
            self._keep(f, f.lasting, f.whole, f.group)
        fresh = compute([f.rest() for f in left])
        for f, summary in zip(left, fresh, strict=True):
            if f.lasting < len(f.blocks) == len(f.keys):
                self._keep(f, len(f.blocks), summary, None)
            f.whole = f.group = None
        return fresh

    def _keep(self, f: PaneFold, count: int, whole: Summary | None, group: Summary | None) -> None:
        """Keep the state after so many blocks."""
        state = {name: summary for name, summary in (("whole", whole), ("group", group)) if summary is not None}
        size = sum(summary.nbytes for summary in state.values())
        columns = next(iter(state.values())).recipe.n
        if 4 * columns * _rows(f.blocks[:count]) >= WORTH * size:
            arrays = {f"{name}.{entry}": x for name, summary in state.items() for entry, x in pack(summary).items()}
            self.cache.put(f.keys[count - 1], arrays)

    def _block(self, source: RowSource, block: list[Fragment], what: list[Any], recipe: Recipe) -> list[Any] | None:
        """Content of a block; None where some rows are not in chunks, or no manifest vouches for them."""
        content = []
        for start, stop, fresh in block:
            pieces = self._content(source, start, stop)
            if pieces is None:
                return None
            # where a buffer ends decides in which order float32 sums are made
            content.append([fresh, start % what[len(self._layout)], pieces])
            if recipe.epoch:  # which rows share one
                content[-1].extend(source.epoch_numbers(start, start + 1, (1, 0)).tolist())
        return content

    def _content(self, source: RowSource, start: int, stop: int) -> list[Any] | None:
        found: list[Any] = []
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


def _state(kept: dict[str, NDArray[Any]], recipe: Recipe) -> tuple[Summary | None, Summary | None] | None:
    """Summaries of the whole groups and of the blocks after them, None for no blocks; None if they are not sound."""
    parts = [_below(kept, "whole."), _below(kept, "group.")]
    whole, group = (unpack(arrays, recipe) if arrays else None for arrays in parts)
    sound = any(parts) and all(bool(arrays) == (x is not None) for arrays, x in zip(parts, (whole, group), strict=True))
    return (whole, group) if sound else None


def _rows(blocks: Blocks) -> int:
    return sum(stop - start for block in blocks for start, stop, _ in block)


def recipe_key(recipe: Recipe) -> list[Any]:
    """JSON of a recipe, its test matrix by digest."""
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name != "test"}
    test = None if recipe.test is None else [recipe.test.shape, digest(np.ascontiguousarray(recipe.test))]
    return [fields, test]


def pack(summary: Summary) -> dict[str, NDArray[Any]]:
    """Arrays of a summary, by the names of its attributes."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in vars(summary).items():
        if name == "recipe":
            continue
        if isinstance(value, dict):
            arrays |= {f"{name}.{entry}": np.asarray(array) for entry, array in value.items()}
        elif isinstance(value, EpochSums):
            arrays |= {f"{name}.{entry}": np.asarray(part) for entry, part in value._asdict().items()}
        elif isinstance(value, frozenset):
            arrays[name] = np.array(sorted(value), "U")
        elif name == "sections":
            arrays[name] = np.array([number for number, _ in value], np.int64)
            for i, (_, section) in enumerate(value):
                arrays |= {f"{name}.{i}.{entry}": array for entry, array in pack(section).items()}
        else:
            arrays[name] = np.asarray(value)
    if any(a.dtype.hasobject for a in arrays.values()):
        raise TypeError("a summary holds something that is no plain array")
    return arrays


def unpack(arrays: dict[str, NDArray[Any]], recipe: Recipe) -> Summary | None:
    """Summary of these arrays; None if they are not what the recipe asks for."""
    summary = Summary(recipe)
    inside = {name: array for name, array in arrays.items() if name.startswith("sections.")}
    expected = pack(summary)
    own = arrays.keys() - inside.keys()
    if own != expected.keys() or not all(_fits(arrays[name], expected[name]) for name in expected):
        return None
    for name, value in vars(summary).items():
        if name == "recipe":
            continue
        if isinstance(value, dict):
            setattr(summary, name, {entry: arrays[f"{name}.{entry}"] for entry in value})
        elif isinstance(value, EpochSums):
            parts: list[Any] = [arrays[f"{name}.{entry}"] for entry in value._fields]
            setattr(summary, name, type(value)(*(x if x.ndim else x.item() for x in parts)))
        elif isinstance(value, frozenset):
            setattr(summary, name, frozenset(arrays[name].tolist()))
        elif name == "sections":
            found = [unpack(_below(inside, f"{name}.{i}."), thin(recipe)) for i in range(len(arrays[name]))]
            if None in found:
                return None
            summary.sections = tuple(zip(arrays[name].tolist(), filter(None, found), strict=True))
        elif isinstance(value, np.ndarray):
            setattr(summary, name, arrays[name])
        else:
            setattr(summary, name, arrays[name].item())
    return summary


def _fits(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether an array is of the kind and shape that an empty summary has; what is empty there may have any length."""
    # names have any length, and large sums of a single block are still in float32
    kinds = found.dtype == expected.dtype or found.dtype.kind == expected.dtype.kind in ("U", "f")
    return (
        kinds
        and found.ndim == expected.ndim
        and all(f == e or e == 0 for f, e in zip(found.shape, expected.shape, strict=True))
    )


def _below(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
