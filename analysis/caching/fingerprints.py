"""Digests of a run's chunks: known from its manifests without reading a chunk.

Every manifest lists the BLAKE2b of its chunks and the digest of the manifest before; the commit record names the newest
one. So each chunk has a name that no other content shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from gradlog.analysis.caching.cache import Arrays, Cache, key
from gradlog.analysis.reading.store import stores
from gradlog.errors import CorruptRunError
from gradlog.format.chain import split_lines, walk
from gradlog.format.header import SegmentHeader
from gradlog.format.layout import ChunkKey
from gradlog.format.names import MANIFEST, MANIFESTS

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run

BATCH = 1024
"""Manifests that are asked for together."""


def chunk_digests(run: Run, segment: SegmentHeader, cache: Cache) -> list[str] | None:
    """BLAKE2b of every sketch chunk of a segment, in order; None where the manifests do not chain up to its head.

    What was read before is kept in the cache: of a run that grew, only the new manifests are read.
    """
    place = key("manifests", segment.root, segment.name)
    first, before, found = cache.recall(place, _known) or (0, segment.root, {})
    if first > segment.flushes:
        first, before, found = 0, segment.root, {}
    head = _follow(_manifests(run, segment, first), before, found)
    if head != segment.head and first:  # another segment of this name, or an entry of its other future
        found = {}
        head = _follow(_manifests(run, segment, 0), segment.root, found)
    if head != segment.head or sorted(found) != list(range(len(found))):
        return None
    entry = {"flushes": segment.flushes, "head": head, "chunk": list(found), "digest": list(found.values())}
    cache.put(place, {name: np.array(value) for name, value in entry.items()})
    return [found[i] for i in range(len(found))]


def _known(kept: Arrays) -> tuple[int, str, dict[int, str]]:
    """Manifests that were followed before, the head that they led to, and the digests of their chunks."""
    chunks: dict[int, str] = dict(zip(kept["chunk"].tolist(), kept["digest"].tolist(), strict=True))
    return kept["flushes"].item(), str(kept["head"]), chunks


def _manifests(run: Run, segment: SegmentHeader, first: int) -> Iterator[bytes]:
    """Manifests from number ``first`` on; empty bytes for those that are not there."""
    store, prefix = run.store, run.prefix
    if segment.shard:
        data = stores.get(store, f"{prefix}{segment.name}/{MANIFESTS}")
        yield from [] if data is None else split_lines(data, segment.flushes, segment.name)[first:]
        return
    for start in range(first, segment.flushes, BATCH):
        numbers = range(start, min(start + BATCH, segment.flushes))
        found = stores.get_many(store, [f"{prefix}{segment.name}/{MANIFEST.format(i)}" for i in numbers])
        yield from (data or b"" for data in found)


def _follow(manifests: Iterable[bytes], before: str, found: dict[int, str]) -> str | None:
    """Add the sketch chunks that the manifests list; return the chain's new end, None where it breaks."""
    try:
        for link in walk(manifests, before, "manifests"):
            keys = {ChunkKey.parse(key): value for key, value in link.chunks.items()}
            found |= {key.index: value for key, value in keys.items() if key and key.array == "sketch"}
            before = link.digest
    except CorruptRunError:
        return None
    return before
