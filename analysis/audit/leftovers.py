"""Files that lie in a run without being part of it, and mean no harm: each with the command that tidies it away."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from gradlog.format import layout
from gradlog.format.header import RunHeader, SegmentHeader
from gradlog.format.layout import ChunkKey, row_arrays
from gradlog.format.names import MANIFESTS, PARTIAL_FILE

_FOREIGN = re.compile(r"\.DS_Store|\._.*|\.directory|Thumbs\.db|desktop\.ini|\.nfs\w+|\.fuse_hidden\w+")
"""Names that file managers and network file systems give to files of their own."""


def is_harmless(key: str) -> bool:
    """Whether a file is the temporary one of a writer, or one of the file system's own.

    >>> is_harmless("seg-000000-r0000/step/c.3.7-7.partial"), is_harmless(".DS_Store"), is_harmless("notes.txt")
    (True, True, False)
    """
    return key.endswith(PARTIAL_FILE) or _FOREIGN.fullmatch(key.rpartition("/")[2]) is not None


def remarks(keys: Iterable[str]) -> list[str]:
    """Say which harmless files there are, and what removes them."""
    harmless = [key for key in keys if is_harmless(key)]
    # A sketch of the parameters that waits for its flush has such a name, and is no leftover.
    partial = [k for k in harmless if k.endswith(PARTIAL_FILE) and not k.rpartition("/")[2].startswith(".theta-")]
    foreign = sorted({k.rpartition("/")[2] for k in harmless if not k.endswith(PARTIAL_FILE)})
    found = []
    if partial:
        tidy = "find RUN -name '*.partial' ! -name '.theta-*' -delete"
        found.append(f"{len(partial):,} temporary files of writers, ignored; where none is at work: {tidy}")
    if foreign:
        found.append(f"files of the file system's own, ignored: find RUN -name '{foreign[0]}' -delete")
    return found


def of_compaction(segment: SegmentHeader, keys: Iterable[str]) -> set[str]:
    """Those of these files that a compaction leaves when it is killed: its first shards, or what they replaced."""
    if not segment.shard and segment.status not in ("closed", "recovered"):
        return set()
    # Once it is committed, the old files may be there still; before, the first of its own.
    manifests = re.compile(r"manifest/\d{6}\.json" if segment.shard else re.escape(MANIFESTS))
    chunks, arrays = {key: ChunkKey.parse(key) for key in keys}, row_arrays(segment.optional)
    return {
        key
        for key, chunk in chunks.items()
        if manifests.fullmatch(key) or (chunk and chunk.array in arrays and chunk.shard != bool(segment.shard))
    }


def is_resharded(header: RunHeader, segment: SegmentHeader, array: str, found: Mapping[str, Any]) -> bool:
    """Whether an array's metadata, Any as they are in the file, are those of a compaction that had not committed."""
    try:
        shard = found["chunk_grid"]["configuration"]["chunk_shape"][0] // header.chunk
    except (KeyError, TypeError, IndexError):
        return False
    if not 1 <= shard <= -(-segment.rows // header.chunk):
        return False
    return bool(found == layout.arrays(header, dataclasses.replace(segment, shard=shard, snapshots=0)).get(array))
