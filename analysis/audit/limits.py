"""What a run declares and holds, against the bounds, and the exact set of chunks that its rows need.

Everything here is read from sizes, from small metadata files and from the first bytes of chunks. Only a run that
passes is decoded, and then each of its bytes is read a fixed number of times. The bounds stand in
``gradlog.format.limits``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradlog.errors import CorruptRunError
from gradlog.format import fields, limits
from gradlog.format.chain import split_lines
from gradlog.format.codec import HEAD, frame_fault
from gradlog.format.header import RunHeader, SegmentHeader, attributes
from gradlog.format.journal import row_bytes
from gradlog.format.layout import (
    ARRAYS,
    ChunkKey,
    arrays,
    chunk_codec,
    chunk_keys,
    decoded_bytes,
    split_key,
)
from gradlog.format.names import JOURNAL_PATTERN, MANIFEST, MANIFESTS, META, SEGMENT_PATTERN


def exceeded(folder: Path, files: dict[str, int]) -> Iterator[str]:
    """List what a run declares or holds beyond the bounds; empty for any run that the recorder wrote.

    Parameters
    ----------
    folder : Path
        The run.
    files : dict of str to int
        Size of every file by key.
    """
    try:
        header = read_header(folder)
    except (CorruptRunError, OSError) as error:
        yield str(error)
        return
    large = [key for key, size in files.items() if size > max(limits.most(key), _is_data(key) * header.largest_file)]
    if large:
        yield from (f"{key}: {files[key]:,} bytes are more than is read of one file" for key in large)
        return
    for name in sorted({key.partition("/")[0] for key in files}):
        if SEGMENT_PATTERN.fullmatch(name) and f"{name}/{META}" in files:
            inside = {key[len(name) + 1 :]: size for key, size in files.items() if key.startswith(f"{name}/")}
            yield from (f"{name}/{text}" for text in _segment(folder / name, inside, header))


def read_header(folder: Path) -> RunHeader:
    """Header of the run in a local folder; CorruptRunError for a damaged one or one that is out of bounds."""
    return RunHeader.from_attrs(_attributes(folder, META), META)


def headers(folder: Path) -> tuple[RunHeader, list[SegmentHeader]]:
    """Headers of a run that is within the bounds, and of its committed segments in order."""
    names = sorted(p.name for p in folder.iterdir() if SEGMENT_PATTERN.fullmatch(p.name) and (p / META).is_file())
    segments = [SegmentHeader.from_attrs(_attributes(folder, f"{name}/{META}"), name) for name in names]
    return read_header(folder), segments


def _segment(folder: Path, files: dict[str, int], header: RunHeader) -> Iterator[str]:
    try:
        segment = SegmentHeader.from_attrs(_attributes(folder, META), META)
        segment.require_bounds(header, META)
        lines = _manifests(folder, files, segment)
    except (CorruptRunError, OSError) as error:
        yield str(error)
        return
    row = row_bytes(len(header.groups), header.sketch.k, limits.COLUMNS) + 40
    for key, size in files.items():
        if JOURNAL_PATTERN.fullmatch(key) and size > header.chunk * row + limits.METADATA:
            yield f"{key}: {size:,} bytes are more than the rows of a chunk can need"
    if len(lines) < segment.flushes:
        yield f"{META}: {segment.flushes:,} flushes are declared, {len(lines):,} manifests are there"
        return
    broken = list(_flushes(lines[: segment.flushes], header.chunk, segment.rows))
    yield from broken
    if not broken:
        implied = arrays(header, segment.rows, len(segment.scalars), snapshots=segment.snapshots)
        yield from _single(folder, files, implied)
        yield from _sharded(folder, files, segment, implied) if segment.shard else ()


def _flushes(manifests: list[bytes], chunk: int, rows: int) -> Iterator[str]:
    """Say where the lists of chunks differ from what the rows need: each chunk once, and none left out."""
    seen: set[str] = set()
    reached = 0
    for i, data in enumerate(manifests):
        try:
            manifest = limits.parse_object(data, f"manifest {i}")
            listed = set(fields.mapping(manifest["chunks"], "chunks"))
            names = fields.sequence(manifest["scalars"], "scalars", limits.COLUMNS)
            start, stop = (fields.step(row, "a row") for row in fields.sequence(manifest["rows"], "rows", 2))
        except (ValueError, KeyError) as error:
            yield f"manifest {i}: it is not one of this format ({error})"
            return
        if start != reached or not 0 <= stop - start <= chunk or (stop > start and start % chunk):
            yield f"manifest {i}: rows {start:,} to {stop:,} are no chunk of {chunk:,} after row {reached:,}"
            return
        needed = set(map(str, chunk_keys(start // chunk, len(names)))) if stop > start else set()
        odd = sorted({key for key in listed if key.partition("/")[0] in ARRAYS} ^ needed) + sorted(listed & seen)
        if odd:
            yield f"manifest {i}: it must list exactly the chunks of its rows; {odd[0]} is missing or too much"
        seen |= listed
        reached = stop
    if reached != rows:
        yield f"{META}: {rows:,} rows are declared, the manifests hold {reached:,}"


def _manifests(folder: Path, files: dict[str, int], segment: SegmentHeader) -> list[bytes]:
    if segment.shard:
        data = limits.read_plain(folder, MANIFESTS) if MANIFESTS in files else None
        return [] if data is None else split_lines(data, segment.flushes, MANIFESTS)
    found: list[bytes] = []
    while (key := MANIFEST.format(len(found))) in files and len(found) < segment.flushes:
        found.append(limits.read_plain(folder, key))
    return found


def _single(folder: Path, files: dict[str, int], arrays: dict[str, Any]) -> Iterator[str]:
    for key, size in files.items():
        chunk = ChunkKey.parse(key)
        if chunk and not chunk.shard and chunk.array in arrays:
            fault = _decodes(arrays[chunk.array], _part(folder, key, 0, HEAD), size)
            if fault:
                yield f"{key}: {fault}"


def _sharded(folder: Path, files: dict[str, int], segment: SegmentHeader, arrays: dict[str, Any]) -> Iterator[str]:
    """Check the chunks inside the shards: none is a bomb, and none is stored once to be read many times."""
    index = 16 * segment.shard + 4
    for key, size in files.items():
        shard = ChunkKey.parse(key)
        if shard is None or not shard.shard or shard.array not in arrays:
            continue
        if size < index:
            yield f"{key}: too short for the index of {segment.shard:,} chunks"
            continue
        table = struct.iter_unpack("<QQ", _part(folder, key, size - index, index - 4))
        entries = [entry for entry in table if entry != (2**64 - 1, 2**64 - 1)]
        if sum(length for _, length in entries) > size or any(o + n > size - index for o, n in entries):
            yield f"{key}: its chunks overlap or lie outside the file"
            continue
        found = (_decodes(arrays[shard.array], _part(folder, key, o, min(HEAD, n)), n) for o, n in entries)
        yield from (f"{key}: {fault}" for fault in [next(filter(None, found), "")] if fault)


def _part(folder: Path, key: str, start: int, size: int) -> bytes:
    descriptor = limits.open_plain(folder, key, limits.ROW)
    try:
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)


def _decodes(array: dict[str, Any], start: bytes, size: int) -> str:
    """Say why a chunk will not decode to exactly the bytes that its array's metadata implies."""
    return frame_fault(chunk_codec(array), decoded_bytes(array), start, size)


def _attributes(folder: Path, key: str) -> dict[str, Any]:
    return attributes(limits.read_plain(folder, key), key)


def _is_data(key: str) -> bool:
    return ChunkKey.parse(split_key(key)[1]) is not None
