"""Summaries kept from one analysis to the next, by the digests of the chunks that they sum up.

The blocks of a pane fold pairwise from its start, so every aligned run of 2^j blocks has a summary that does not
change while the run grows: those are kept. A later pass takes the largest ones there are and reads the rest. The fold
is the one that ``blocks`` makes without a cache, sum by sum: the numbers are the same to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.cache import Cache, key
from gradlog.analysis.carriers import Carriers
from gradlog.analysis.digests import chunk_digests
from gradlog.analysis.rows import RowSource
from gradlog.analysis.summary import Recipe, Summary, merge
from gradlog.schema import digest

if TYPE_CHECKING:
    from gradlog.analysis.blocks import Fragment
    from gradlog.analysis.reader import Run

WORTH = 2.0
"""A summary is kept if the rows behind it are so many times its size."""

Blocks = list[list["Fragment"]]


@dataclasses.dataclass
class Node:
    """Adjoining blocks: their summary where it is known, and its key where their content is."""

    blocks: Blocks
    key: str | None
    summary: Summary | None = None


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
        self._layout = [run.groups, run.k, run.header.codec, run.header.chunk]
        self._digests = {s.header.name: chunk_digests(run.location, s.header, cache) for s in run.segments}
        self._committed = {s.header.name: s.header.rows for s in run.segments}

    def summaries(
        self, source: RowSource, panes: list[Blocks], recipe: Recipe, buffer: int, compute: Callable[[Any], Any]
    ) -> list[Summary]:
        """Summaries of panes; ``compute`` makes those of the lists of blocks that are not known yet."""
        what = [*self._layout, buffer, recipe_key(recipe)]
        plans = [list(self._plan(source, pane, what, recipe)) for pane in panes]
        unknown = [node for nodes in plans for node in nodes if node.summary is None]
        fresh = compute([node.blocks for node in unknown]) if unknown else []
        for node, summary in zip(unknown, fresh, strict=True):
            node.summary = summary
            self._keep(node)
        folded = [self._fold(source, nodes, what) for nodes in plans]
        self.cache.trim()
        return folded

    def _plan(self, source: RowSource, pane: Blocks, what: list[Any], recipe: Recipe) -> Iterator[Node]:
        start = 0
        for bit in reversed(range(len(pane).bit_length())):
            if len(pane) >> bit & 1:
                yield from self._find(source, pane[start : start + 2**bit], what, recipe)
                start += 2**bit

    def _find(self, source: RowSource, blocks: Blocks, what: list[Any], recipe: Recipe) -> list[Node]:
        """One node for all the blocks if it is known, or if none of its parts is and it can be kept."""
        node = Node(blocks, self._key(source, blocks, what))
        kept = self.cache.get(node.key) if node.key else None
        if kept is not None and (summary := unpack(kept, recipe)) is not None:
            node.summary = summary
            self.rows += _rows(blocks)
        if node.summary is not None or len(blocks) == 1:
            return [node]
        half = len(blocks) // 2
        parts = self._find(source, blocks[:half], what, recipe) + self._find(source, blocks[half:], what, recipe)
        return parts if node.key is None or any(p.summary is not None for p in parts) else [node]

    def _fold(self, source: RowSource, nodes: list[Node], what: list[Any]) -> Summary:
        """Join neighbours of equal size as they come, and what is left from the end: the order of ``blocks.tree``."""
        waiting: list[Node] = []
        for node in nodes:
            while waiting and len(waiting[-1].blocks) == len(node.blocks):
                node = self._join(waiting.pop(), node)
                node.key = self._key(source, node.blocks, what)
                self._keep(node)
            waiting.append(node)
        node = waiting.pop()
        while waiting:
            node = self._join(waiting.pop(), node)
        assert node.summary is not None
        return node.summary

    @staticmethod
    def _join(left: Node, right: Node) -> Node:
        assert left.summary is not None
        assert right.summary is not None
        return Node(left.blocks + right.blocks, None, merge(left.summary, right.summary))

    def _keep(self, node: Node) -> None:
        summary = node.summary
        if node.key and summary and 4 * summary.recipe.n * _rows(node.blocks) >= WORTH * summary.nbytes:
            self.cache.put(node.key, pack(summary))

    def _key(self, source: RowSource, blocks: Blocks, what: list[Any]) -> str | None:
        """Name of the summary of these rows; None where some are not in chunks, or no manifest vouches for them."""
        content = []
        for block in blocks:
            for start, stop, fresh in block:
                pieces = self._content(source, start, stop)
                if pieces is None:
                    return None
                # where a buffer ends decides in which order float32 sums are made
                content.append([fresh, start % what[len(self._layout)], pieces])
            content.append([])
        return key("summary", what, content)

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
        elif isinstance(value, Carriers):
            arrays |= {f"{name}.{entry}": np.asarray(part) for entry, part in value._asdict().items()}
        elif isinstance(value, frozenset):
            arrays[name] = np.array(sorted(value), "U")
        else:
            arrays[name] = np.asarray(value)
    if any(a.dtype.hasobject for a in arrays.values()):
        raise TypeError("a summary holds something that is no plain array")
    return arrays


def unpack(arrays: dict[str, NDArray[Any]], recipe: Recipe) -> Summary | None:
    """Summary of these arrays; None if they are not what the recipe asks for."""
    summary = Summary(recipe)
    expected = pack(summary)
    if arrays.keys() != expected.keys():
        return None
    for name, value in vars(summary).items():
        if name == "recipe":
            continue
        if isinstance(value, dict):
            setattr(summary, name, {entry: arrays[f"{name}.{entry}"] for entry in value})
        elif isinstance(value, Carriers):
            parts: dict[str, Any] = {entry: arrays[f"{name}.{entry}"] for entry in value._fields}
            setattr(summary, name, Carriers(**parts | {"cleared": int(parts["cleared"])}))
        elif isinstance(value, frozenset):
            setattr(summary, name, frozenset(arrays[name].tolist()))
        elif isinstance(value, np.ndarray):
            setattr(summary, name, arrays[name])
        else:
            setattr(summary, name, arrays[name].item())
    return summary
