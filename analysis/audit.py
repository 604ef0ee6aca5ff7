"""Integrity of a stored run: whether every byte agrees with the digests that were written beside it.

Each flush wrote a manifest with the size and BLAKE2b-256 of its chunks and the digest of the manifest before;
the chain starts at the root's metadata and ends at the head that the segment's commit record names, and that
record carries a digest of itself. This finds damage and accidents. It cannot find a forger who rewrites the
whole chain; a head kept elsewhere (in a checkpoint) can.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, Protocol

from gradlog import records, shards
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
    digest,
    is_sealed,
    segment_arrays,
)

_DIMENSIONS = {"sketch": 3, "group_norm2": 2, "scalars": 2, "step": 1, "flags": 1}


class Files(Protocol):
    """Read access to the objects of a run by key."""

    def get(self, key: str) -> bytes | None:
        """Content of an object; None if there is none."""

    def keys(self) -> list[str]:
        """Every key of the run."""


class Folder:
    """The files of a local run. Links are not followed: a run handed over by somebody may point anywhere."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)

    def get(self, key: str) -> bytes | None:
        """Read a file."""
        try:
            with open(os.path.join(self._path, key), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def keys(self) -> list[str]:
        """Walk the folder."""
        found = []
        for folder, _, names in os.walk(self._path):
            prefix = os.path.relpath(folder, self._path)
            found += [name if prefix == "." else f"{prefix}/{name}" for name in names]
        return sorted(found)


def verify(files: Files) -> list[str]:
    """Check every file of a run against manifests, chain and metadata.

    Parameters
    ----------
    files : Files
        ``Folder(path)`` for a local run.

    Returns
    -------
    list of str
        One line a problem, empty for a sound run. Nothing is raised for damaged content.

    Examples
    --------
    >>> verify(Folder("/nonexistent.zarr"))
    ['zarr.json: missing']
    """
    return list(_run(files))


class Shards:
    """A compacted segment seen as the chunks and manifests that it was made of."""

    def __init__(self, files: Files, name: str, header: RunHeader, segment: SegmentHeader) -> None:
        self._files, self._name, self._count = files, name, segment.shard
        self._columns = max(1, -(-len(segment.scalars) // SCALAR_COLUMNS))
        self._rows = -(-segment.rows // (header.chunk * segment.shard))
        self._open: tuple[str, list[bytes | None]] = ("", [])
        lines = files.get(f"{name}/{MANIFESTS}")
        self._manifests = [] if lines is None else lines.split(b"\n")
        self.listed = {MANIFESTS} | {self._shard(array, row, column) for array, row, column in self._places()}

    def get(self, key: str) -> bytes | None:
        """Content of a chunk or manifest by the key it had."""
        key = key.removeprefix(f"{self._name}/")
        if key.startswith("manifest/"):
            i = int(key[-11:-5])
            return self._manifests[i] if i < len(self._manifests) else None
        array, _, place = key.partition("/c.")
        row, *rest = map(int, place.split("."))
        shard = self._shard(array, row // self._count, rest[0] if rest else 0)
        if self._open[0] != shard:
            self._open = (shard, self._chunks(shard))
        return self._open[1][row % self._count] if self._open[1] else None

    def keys(self) -> list[str]:
        """Every key of the run."""
        return self._files.keys()

    def _chunks(self, shard: str) -> list[bytes | None]:
        data = self._files.get(f"{self._name}/{shard}")
        try:
            return [] if data is None else shards.unpack(data, self._count)
        except ValueError:
            return []

    def _places(self) -> Iterator[tuple[str, int, int]]:
        for row in range(self._rows):
            for array in _DIMENSIONS:
                for column in range(self._columns if array == "scalars" else 1):
                    yield array, row, column

    @staticmethod
    def _shard(array: str, row: int, column: int) -> str:
        return f"{array}/c/" + "/".join(map(str, [row, column, 0][: _DIMENSIONS[array]]))


def _run(files: Files) -> Iterator[str]:
    root = files.get(META)
    if root is None:
        yield f"{META}: missing"
        return
    try:
        header = RunHeader.from_attrs(_attributes(root), META)
    except (GradlogError, ValueError, TypeError, KeyError, RecursionError) as error:
        yield f"{META}: {error}"
        return
    keys = files.keys()
    segments = sorted({key.split("/")[0] for key in keys if SEGMENT_PATTERN.fullmatch(key.split("/")[0])})
    if not segments:
        yield "no segment: the run is empty"
    for name in segments:
        inside = {key[len(name) + 1 :] for key in keys if key.startswith(f"{name}/")}
        for problem in _segment(files, header, digest(root), name, inside):
            yield f"{name}/{problem}"


def _segment(files: Files, header: RunHeader, root: str, name: str, inside: set[str]) -> Iterator[str]:
    data = files.get(f"{name}/{META}")
    if data is None:
        yield f"{META}: missing"
        return
    if not is_sealed(data):
        yield f"{META}: its bytes contradict its own digest"
        return
    try:
        segment = SegmentHeader.from_attrs(_attributes(data), META)
        arrays = json.loads(data)["consolidated_metadata"]["metadata"]
    except (GradlogError, ValueError, TypeError, KeyError) as error:
        yield f"{META}: {error}"
        return
    if segment.name != name:
        yield f"{META}: belongs to {segment.name}"
    if segment.root != root:
        yield f"{META}: the run's zarr.json is not the one that this segment was recorded under"
    expected = segment_arrays(header, segment.rows, len(segment.scalars), segment.shard)
    if arrays != expected:
        yield f"{META}: the arrays' metadata is not what the headers imply"
    listed = {META}
    for array, meta in expected.items():
        listed.add(f"{array}/{META}")
        if _json(files.get(f"{name}/{array}/{META}")) != meta and segment.flushes:
            yield f"{array}/{META}: missing or not what the headers imply"
    if segment.shard:
        source = Shards(files, name, header, segment)
        listed |= source.listed
        yield from _chain(source, segment, set())
    else:
        yield from _chain(files, segment, listed)
    yield from _journals(files, header, segment, inside)
    for key in sorted(inside - listed):
        if not JOURNAL_PATTERN.fullmatch(key) and segment.status != "recording":
            yield f"{key}: in no manifest"


def _chain(files: Files, segment: SegmentHeader, listed: set[str]) -> Iterator[str]:
    previous, rows = segment.root, 0
    for i in range(segment.flushes):
        key = MANIFEST.format(i)
        listed.add(key)
        data = files.get(f"{segment.name}/{key}")
        manifest = _json(data)
        if data is None or not isinstance(manifest, dict):
            yield f"{key}: missing or not JSON; the chain breaks here"
            return
        if manifest.get("prev") != previous:
            yield f"{key}: does not follow the manifest before it"
        if manifest.get("segment") != segment.name or manifest.get("flush") != i:
            yield f"{key}: belongs elsewhere"
        start, stop = _interval(manifest.get("rows"))
        if start != rows or stop <= start:
            yield f"{key}: rows {manifest.get('rows')} do not follow row {rows}"
        previous, rows = digest(data), stop
        yield from _chunks(files, segment.name, manifest.get("chunks"), listed)
    if previous != segment.head:
        yield f"{META}: the chain's head is not the newest manifest"
    if rows != segment.rows:
        yield f"{META}: {segment.rows} rows are committed, the manifests hold {rows}"


def _chunks(files: Files, name: str, chunks: Any, listed: set[str]) -> Iterator[str]:
    if not isinstance(chunks, dict):
        yield "manifest: lists no chunks"
        return
    for key, entry in chunks.items():
        listed.add(key)
        if not re.fullmatch(r"[a-z0-9_]+/c(\.\d+)+", key) or not isinstance(entry, dict):
            yield f"{key!r}: not a chunk of this format"
            continue
        data = files.get(f"{name}/{key}")
        if data is None:
            yield f"{key}: missing"
        elif len(data) != entry.get("size"):
            yield f"{key}: {len(data)} bytes, the manifest says {entry.get('size')}"
        elif digest(data) != entry.get("blake2b"):
            yield f"{key}: bytes contradict the manifest"


def _journals(files: Files, header: RunHeader, segment: SegmentHeader, inside: set[str]) -> Iterator[str]:
    expected = segment.rows // header.chunk
    for key in sorted(k for k in inside if JOURNAL_PATTERN.fullmatch(k)):
        data = files.get(f"{segment.name}/{key}") or b""
        journal = records.read_journal(data, len(header.groups), header.sketch.k)
        if journal.chunk != int(key[-6:]):
            yield f"{key}: damaged at its head; its rows cannot be read"
        elif journal.chunk > expected:
            yield f"{key}: the journal of chunk {expected} is missing before it"
        elif journal.unread:
            yield f"{key}: {journal.unread} bytes after row {len(journal)} are no whole record"
        expected = max(expected, journal.chunk + 1)


def _interval(rows: Any) -> tuple[int, int]:
    if isinstance(rows, list) and len(rows) == 2 and all(type(r) is int for r in rows):
        return rows[0], rows[1]
    return -1, -1


def _json(data: bytes | None) -> Any:
    try:
        return None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        return None


def _attributes(data: bytes) -> dict[str, Any]:
    document = json.loads(data)
    return dict(document["attributes"])
