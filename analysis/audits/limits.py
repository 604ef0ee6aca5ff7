"""Bounds on what a store may make its reader spend, and the exact set of chunks that its rows need.

Everything here is read from sizes, from small metadata files and from the first bytes of chunks. Only a run that
passes is decoded, and then each of its bytes is read a fixed number of times.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gradlog.errors import GradlogError
from gradlog.schema import (
    JOURNAL_PATTERN,
    MANIFEST,
    MANIFESTS,
    META,
    SCALAR_COLUMNS,
    SEGMENT_PATTERN,
    RunHeader,
    SegmentHeader,
    segment_arrays,
    snapshot_arrays,
)

METADATA = 64 * 2**20
"""Bytes of a JSON file. A model of 100,000 tensors needs 15 MB."""

CHUNK = 2 * 2**30
"""Bytes of a decoded chunk. The recorder makes them of 4 MiB, and of 64 MiB for very wide rows."""

FOLDED = 2**26
"""Length of the folded vector of the sketch."""

COLUMNS = 2**16
"""Scalar names of a segment."""

FILE = 4 * 2**30
"""Bytes of any file: the integrity check holds one at a time."""

TABLE = 16 * 2**30
"""Bytes of what is kept of all rows of a segment."""

_ROWS = {"sketch", "group_norm2", "scalars", "step", "flags"}
"""The arrays over steps. Others may stand beside them."""


def exceeded(folder: Path, files: dict[str, int]) -> Iterator[str]:
    """List what a run declares or holds beyond the bounds; empty for any run that the recorder wrote.

    Parameters
    ----------
    folder : Path
        The run.
    files : dict of str to int
        Size of every file by key.
    """
    large = [key for key, size in files.items() if size > (METADATA if _is_text(key) else FILE)]
    if large:
        yield from (f"{key}: {files[key]:,} bytes are more than is read of one file" for key in large)
        return
    try:
        header = RunHeader.from_attrs(_attributes(folder / META), META)
    except GradlogError as error:
        yield str(error)
        return
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        yield f"{META}: not the metadata of a run ({error!r})"
        return
    declared = list(_header(header))
    yield from declared
    if declared:
        return
    for name in sorted({key.partition("/")[0] for key in files}):
        if SEGMENT_PATTERN.fullmatch(name) and f"{name}/{META}" in files:
            inside = {key[len(name) + 1 :]: size for key, size in files.items() if key.startswith(f"{name}/")}
            yield from (f"{name}/{text}" for text in _segment(folder / name, inside, header))


def headers(folder: Path) -> tuple[RunHeader, list[SegmentHeader]]:
    """Headers of a run that is within the bounds, and of its committed segments in order."""
    header = RunHeader.from_attrs(_attributes(folder / META), META)
    names = sorted(p.name for p in folder.iterdir() if SEGMENT_PATTERN.fullmatch(p.name) and (p / META).is_file())
    return header, [SegmentHeader.from_attrs(_attributes(folder / name / META), name) for name in names]


def _header(header: RunHeader) -> Iterator[str]:
    chunk = header.chunk * header.n * 4
    if chunk > CHUNK:
        yield f"{META}: a chunk of {header.chunk:,} rows x {header.n:,} numbers would take {chunk:,} bytes of memory"
    if header.sketch.m > FOLDED:
        yield f"{META}: the sketch folds to {header.sketch.m:,} numbers, at most {FOLDED:,} are taken"
    if header.dimension > 2**60 or (not header.sketch.exact and header.dimension > 2**27 * header.sketch.m):
        yield f"{META}: {header.dimension:,} coordinates are more than any model has"


def _segment(folder: Path, files: dict[str, int], header: RunHeader) -> Iterator[str]:
    try:
        segment = SegmentHeader.from_attrs(_attributes(folder / META), META)
    except (GradlogError, ValueError, TypeError, KeyError, RecursionError) as error:
        yield f"{META}: {error}"
        return
    row = header.n * 4 + len(header.groups) * 8 + 64 + 8 * COLUMNS
    for key, size in files.items():
        if JOURNAL_PATTERN.fullmatch(key) and size > header.chunk * row + METADATA:
            yield f"{key}: {size:,} bytes are more than the rows of a chunk can need"
    if len(segment.scalars) > COLUMNS:
        yield f"{META}: {len(segment.scalars):,} scalars, at most {COLUMNS:,} are read"
        return
    kept = 8 * segment.rows * (4 + 2 * len(header.groups) + len(segment.scalars))
    if kept > TABLE:
        yield f"{META}: {segment.rows:,} rows of {len(header.groups):,} groups would take {kept:,} bytes of memory"
        return
    lines = _manifests(folder, files, segment)
    if len(lines) < segment.flushes:
        yield f"{META}: {segment.flushes:,} flushes are declared, {len(lines):,} manifests are there"
        return
    broken = list(_flushes(lines[: segment.flushes], header.chunk, segment.rows))
    yield from broken
    if not broken:
        yield from _single(folder, files, segment, snapshot_arrays(header, segment.snapshots))
        arrays = segment_arrays(header, segment.rows, len(segment.scalars))
        yield from (_sharded if segment.shard else _single)(folder, files, segment, arrays)


def _flushes(manifests: list[bytes], chunk: int, rows: int) -> Iterator[str]:
    """Say where the lists of chunks differ from what the rows need: each chunk once, and none left out."""
    seen: set[str] = set()
    reached = 0
    for i, data in enumerate(manifests):
        try:
            manifest = json.loads(data)
            listed, columns = set(manifest["chunks"]), -(-len(manifest["scalars"]) // SCALAR_COLUMNS)
            start, stop = map(int, manifest["rows"])
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            yield f"manifest {i}: it is not one of this format"
            return
        if start != reached or not 0 <= stop - start <= chunk or (stop > start and start % chunk):
            yield f"manifest {i}: rows {start:,} to {stop:,} are no chunk of {chunk:,} after row {reached:,}"
            return
        needed = _needed(start // chunk, min(columns, COLUMNS)) if stop > start else set()
        odd = sorted({key for key in listed if key.partition("/")[0] in _ROWS} ^ needed) + sorted(listed & seen)
        if odd:
            yield f"manifest {i}: it must list exactly the chunks of its rows; {odd[0]} is missing or too much"
        seen |= listed
        reached = stop
    if reached != rows:
        yield f"{META}: {rows:,} rows are declared, the manifests hold {reached:,}"


def _needed(index: int, columns: int) -> set[str]:
    four = {f"sketch/c.{index}.0.0", f"group_norm2/c.{index}.0", f"step/c.{index}", f"flags/c.{index}"}
    return four | {f"scalars/c.{index}.{column}" for column in range(columns)}


def _manifests(folder: Path, files: dict[str, int], segment: SegmentHeader) -> list[bytes]:
    if segment.shard:
        return (folder / MANIFESTS).read_bytes().split(b"\n") if MANIFESTS in files else []
    found: list[bytes] = []
    while (key := MANIFEST.format(len(found))) in files and len(found) < segment.flushes:
        found.append((folder / key).read_bytes())
    return found


def _single(folder: Path, files: dict[str, int], segment: SegmentHeader, arrays: dict[str, Any]) -> Iterator[str]:
    for key, size in files.items():
        array, _, place = key.partition("/c.")
        if array in arrays and place:
            with open(folder / key, "rb") as file:
                text = _decodes(arrays[array], file.read(18), size)
            if text:
                yield f"{key}: {text}"


def _sharded(folder: Path, files: dict[str, int], segment: SegmentHeader, arrays: dict[str, Any]) -> Iterator[str]:
    """Check the chunks inside the shards: none is a bomb, and none is stored once to be read many times."""
    index = 16 * segment.shard + 4
    for key, size in files.items():
        array, _, place = key.partition("/c/")
        if array not in arrays or not place:
            continue
        if size < index:
            yield f"{key}: too short for the index of {segment.shard:,} chunks"
            continue
        with open(folder / key, "rb") as file:
            file.seek(size - index)
            entries = [e for e in struct.iter_unpack("<QQ", file.read(index - 4)) if e != (2**64 - 1, 2**64 - 1)]
            if sum(length for _, length in entries) > size or any(o + n > size - index for o, n in entries):
                yield f"{key}: its chunks overlap or lie outside the file"
                continue
            for offset, length in entries:
                file.seek(offset)
                text = _decodes(arrays[array], file.read(min(18, length)), length)
                if text:
                    yield f"{key}: {text}"
                    break


def _decodes(array: dict[str, Any], start: bytes, size: int) -> str:
    """Say why a chunk will not decode to exactly the bytes that its array's metadata implies."""
    shape = array["chunk_grid"]["configuration"]["chunk_shape"]
    expected = int(np.prod(shape, dtype=object)) * np.dtype(array["data_type"]).itemsize
    codec = array["codecs"][1]["name"]
    declared = {"crc32c": size - 4, "zstd": zstd_size(start), "blosc": _blosc_size(start)}[codec]
    if declared != expected:
        return f"a chunk decodes to {'an unknown number of' if declared is None else declared} bytes, not {expected:,}"
    if size > expected + expected // 64 + 4096:
        return f"{size:,} stored bytes for a chunk of {expected:,}"
    return ""


def zstd_size(start: bytes) -> int | None:
    """Content size that a zstd frame declares (RFC 8878, 3.1.1.1); None where it declares none.

    Parameters
    ----------
    start : bytes
        The first 18 bytes of the frame, or all.
    """
    if len(start) < 6 or start[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = start[4]
    single, code = descriptor >> 5 & 1, descriptor >> 6
    width = (1 if single else 0, 2, 4, 8)[code]
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    if width == 0 or len(start) < at + width:
        return None
    return int.from_bytes(start[at : at + width], "little") + (256 if width == 2 else 0)


def _blosc_size(start: bytes) -> int | None:
    return int.from_bytes(start[4:8], "little") if len(start) >= 16 else None


def _attributes(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())["attributes"])


def _is_text(key: str) -> bool:
    return key.endswith((".json", ".jsonl"))
