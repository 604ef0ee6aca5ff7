"""Summaries kept from one analysis to the next, by the digests of the chunks that they sum up.

The blocks of a pane fold from its start. So the sums of the first groups of blocks do not change while the run grows,
nor do those of the first blocks of the next group. Both are kept, and a later pass continues from there. The fold is
the same as without a cache, sum by sum: the numbers are the same to the last bit.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.caching.cache import Cache, key
from gradlog.analysis.caching.fingerprints import chunk_digests
from gradlog.analysis.reading.rows import RowSource, block_rows
from gradlog.analysis.streaming.epoch_sums import EpochSums
from gradlog.analysis.streaming.executors.base import FAN, Pane
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.sections import thin
from gradlog.analysis.streaming.summary import Summary
from gradlog.format.chain import digest

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run
    from gradlog.analysis.streaming.schedule import Fragment

WORTH = 2.0
"""A summary is kept if the rows behind it are so many times its size."""

BATCH = 64
"""Blocks that are made, at least, before any of their panes is done with."""

Blocks = list[list["Fragment"]]


@dataclasses.dataclass
class Plan:
    """How far the fold of a pane is known.

    Attributes
    ----------
    blocks : list
        All blocks of the pane.
    groups, heads : list of str, list of list of str
        Keys of the summaries of the first 1, 2, ... groups; and of the first 1, 2, ... blocks of each group, the first
        that is not whole included. As far as contents are known, and without the last block if it may be longer when
        the run has grown.
    all : str or None
        Key of the pane's summary.
    whole, group, at : Summary or None, Summary or None, int
        What the fold goes on from: see ``blocks.fold``; ``at`` blocks are behind it.
    """

    blocks: Blocks
    groups: list[str]
    heads: list[list[str]]
    all: str | None
    whole: Summary | None = None
    group: Summary | None = None
    at: int = 0

    @property
    def grouped(self) -> int:
        """Blocks of the whole groups."""
        return FAN * len(self.groups)

    @property
    def known(self) -> int:
        """Blocks that lasting keys stand for."""
        return self.grouped + len(self.heads[len(self.groups)])

    def rest(self, stop: int | None = None) -> Pane:
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
        compute: Callable[[list[Pane]], list[Summary]],
    ) -> list[Summary]:
        """Summaries of panes; ``compute`` makes what is not known of them yet."""
        what = [*self._layout, buffer, recipe_key(recipe)]
        plans = [self._plan(source, pane, what, recipe) for pane in panes]
        found = [self._recall(plan, recipe) for plan in plans]
        left = [plan for plan, summary in zip(plans, found, strict=True) if summary is None]
        fresh = [summary for batch in _batches(left) for summary in self._make(batch, compute)]
        self.cache.trim()
        rest = iter(fresh)
        return [next(rest) if summary is None else summary for summary in found]

    def _make(self, left: list[Plan], compute: Callable[[list[Pane]], list[Summary]]) -> list[Summary]:
        """Fold on from what is known, and keep what will be known."""
        bodies = [plan for plan in left if plan.at < plan.grouped]
        for plan, summary in zip(bodies, compute([p.rest(p.grouped) for p in bodies]), strict=True):
            plan.whole, plan.group, plan.at = summary, None, plan.grouped
            self._keep(plan.groups[-1], summary, plan.blocks[: plan.at])
        heads = [plan for plan in left if plan.at < plan.known]
        starts = [plan.rest(plan.known)._replace(whole=None) for plan in heads]
        for plan, summary in zip(heads, compute(starts), strict=True):
            plan.group, plan.at = summary, plan.known
            self._keep(plan.heads[-1][-1], summary, plan.blocks[plan.grouped : plan.at])
        fresh = compute([plan.rest() for plan in left])
        for plan, summary in zip(left, fresh, strict=True):
            self._keep(plan.all, summary, plan.blocks)
            plan.whole = plan.group = None
        return fresh

    def _plan(self, source: RowSource, pane: Blocks, what: list[Any], recipe: Recipe) -> Plan:
        contents = [self._block(source, block, what, recipe) for block in pane]
        full = bool(pane[-1]) and pane[-1][-1][1] % block_rows(source) == 0
        lasting = contents if full else contents[:-1]
        known = list(itertools.takewhile(lambda content: content is not None, lasting))
        parts = [known[i : i + FAN] for i in range(0, len(known) + 1, FAN)]
        groups = _chain(["groups", what], parts[:-1])
        heads = [_chain(["blocks", what], part) for part in parts]
        return Plan(pane, groups, heads, None if None in contents else key("pane", what, contents))

    def _recall(self, plan: Plan, recipe: Recipe) -> Summary | None:
        """Return the summary of all blocks if it is kept; else find that of as many as possible."""
        if (everything := self._get(plan.all, recipe)) is not None:
            self.rows += _rows(plan.blocks)
            return everything
        plan.at, plan.whole = self._longest(plan.groups, recipe, FAN)
        more, plan.group = self._longest(plan.heads[plan.at // FAN], recipe, 1)
        plan.at += more
        self.rows += _rows(plan.blocks[: plan.at])
        return None

    def _longest(self, keys: list[str], recipe: Recipe, step: int) -> tuple[int, Summary | None]:
        """Blocks of the last of these keys that has a summary, and that."""
        for count in range(len(keys), 0, -1):
            if (summary := self._get(keys[count - 1], recipe)) is not None:
                return count * step, summary
        return 0, None

    def _get(self, name: str | None, recipe: Recipe) -> Summary | None:
        return self.cache.recall(name, lambda kept: unpack(kept, recipe)) if name else None

    def _keep(self, name: str | None, summary: Summary, blocks: Blocks) -> None:
        if name and 4 * summary.recipe.n * _rows(blocks) >= WORTH * summary.nbytes:
            self.cache.put(name, pack(summary))

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


def _batches(plans: list[Plan]) -> list[list[Plan]]:
    """Cut panes into runs of enough blocks for all workers: what is kept of a pane on its way is twice its summary."""
    found: list[list[Plan]] = [[]]
    for plan in plans:
        if sum(len(p.blocks) for p in found[-1]) >= BATCH:
            found.append([])
        found[-1].append(plan)
    return found if plans else []


def _chain(start: Any, contents: Sequence[Any]) -> list[str]:
    """Key of every beginning of the contents."""
    keys = list(itertools.accumulate(contents, lambda before, content: key(before, content), initial=key(start)))
    return keys[1:]


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
