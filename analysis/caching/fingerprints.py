"""What a run holds, by digest: known from its metadata and manifests without reading a chunk.

Every manifest lists the BLAKE2b of its chunks and the digest of the manifest before; the commit record names the newest
one. The record therefore stands for all committed bytes, and each chunk has a name that no other content shares.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlog.analysis.caching.cache import Cache, key
from gradlog.analysis.reading import segment as segments
from gradlog.analysis.reading import stores
from gradlog.errors import GradlogError
from gradlog.format import limits
from gradlog.format.chain import digest, is_sealed
from gradlog.format.header import SegmentHeader
from gradlog.format.names import JOURNAL_PATTERN, MANIFEST, MANIFESTS, META

if TYPE_CHECKING:
    from gradlog.analysis.reading.stores import Location

BATCH = 1024
"""Manifests that are asked for together."""

_SKETCH = re.compile(r"sketch/c\.(\d+)\.0\.0")


def fingerprint(location: Location) -> str | None:
    """Digest of everything that an analysis could see of a run: headers, committed rows, journals.

    None where the metadata do not vouch for the rows: no chain of manifests, or a record that contradicts itself.

    Raises
    ------
    NotARunError, CorruptRunError
        As ``open_run`` does.
    """
    store, prefix = stores.open_store(location)
    segments.read_header(store, prefix, str(location))
    pieces: list[bytes] = [stores.get(store, prefix + META) or b""]
    for name in segments.segment_names(store, prefix):
        record = stores.get(store, f"{prefix}{name}/{META}")
        if record is None or not is_sealed(record):
            return None
        header = _header(record, name)
        if header is None or (header.rows and not header.head):
            return None
        pieces.append(record)
        journals = sorted(f for f in stores.list_names(store, prefix + name) if JOURNAL_PATTERN.fullmatch(f))
        pieces += [stores.get(store, f"{prefix}{name}/{file}") or b"" for file in journals]
    return digest(*(digest(p).encode() for p in pieces))


def _header(record: bytes, name: str) -> SegmentHeader | None:
    try:
        return SegmentHeader.from_attrs(limits.parse_object(record, name)["attributes"], name)
    except (GradlogError, ValueError, KeyError, TypeError):
        return None


def chunk_digests(location: Location, segment: SegmentHeader, cache: Cache) -> list[str] | None:
    """BLAKE2b of every sketch chunk of a segment, in order; None where the manifests do not chain up to its head.

    What was read before is kept in the cache: of a run that grew, only the new manifests are read.
    """
    place = key("manifests", segment.root, segment.name)
    first, before, found = cache.recall(place, _known) or (0, segment.root, {})
    if first > segment.flushes:
        first, before, found = 0, segment.root, {}
    head = _follow(_manifests(location, segment, first), before, found)
    if head != segment.head and first:  # another segment of this name, or an entry of its other future
        found = {}
        head = _follow(_manifests(location, segment, 0), segment.root, found)
    if head != segment.head or sorted(found) != list(range(len(found))):
        return None
    entry = {"flushes": segment.flushes, "head": head, "chunk": list(found), "digest": list(found.values())}
    cache.put(place, {name: np.array(value) for name, value in entry.items()})
    return [found[i] for i in range(len(found))]


def _known(kept: Mapping[str, Any]) -> tuple[int, str, dict[int, str]]:
    """Manifests that were followed before, the head that they led to, and the digests of their chunks."""
    chunks: dict[int, str] = dict(zip(kept["chunk"].tolist(), kept["digest"].tolist(), strict=True))
    return int(kept["flushes"]), str(kept["head"]), chunks


def _manifests(location: Location, segment: SegmentHeader, first: int) -> Iterator[bytes | None]:
    """Manifests from number ``first`` on, as far as they are there."""
    store, prefix = stores.open_store(location)
    if segment.shard:
        data = stores.get(store, f"{prefix}{segment.name}/{MANIFESTS}")
        yield from [] if data is None else limits.split_lines(data, segment.flushes, segment.name)[first:]
        return
    for start in range(first, segment.flushes, BATCH):
        numbers = range(start, min(start + BATCH, segment.flushes))
        yield from stores.get_many(store, [f"{prefix}{segment.name}/{MANIFEST.format(i)}" for i in numbers])


def _follow(manifests: Iterable[bytes | None], before: str, found: dict[int, str]) -> str | None:
    """Add the sketch chunks that the manifests list; return the chain's new end, None where it breaks."""
    for data in manifests:
        try:
            manifest = limits.parse_object(data or b"", "manifest")
            if manifest["prev"] != before:
                return None
            for name, entry in manifest["chunks"].items():
                if match := _SKETCH.fullmatch(name):
                    found[int(match[1])] = str(entry["blake2b"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        before = digest(data)
    return before
