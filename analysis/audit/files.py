"""The objects of a run as bytes by key, wherever they lie: what the integrity check reads."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Protocol

from gradlog.errors import CorruptRunError, GradlogError
from gradlog.format import limits, shards
from gradlog.format.chain import split_lines
from gradlog.format.header import RunHeader, SegmentHeader, attributes
from gradlog.format.layout import SNAPSHOTS, ChunkKey, split_key
from gradlog.format.names import MANIFESTS, META


class Files(Protocol):
    """Read access to the objects of a run by key."""

    def get(self, key: str) -> bytes | None:
        """Content of an object; None if there is none."""

    def keys(self) -> list[str]:
        """Every key of the run."""


class Chunks(Protocol):
    """Read access to chunks and manifests by key, which may be parts of larger objects."""

    def get(self, key: str) -> bytes | memoryview | None:
        """Content of a chunk or manifest; None if there is none."""


class Folder:
    """The files of a local run. Links are not followed: a run handed over by somebody may point anywhere."""

    def __init__(self, path: str | os.PathLike[str], header: RunHeader | None = None) -> None:
        self._path, self._header = os.fspath(path), header

    @cached_property
    def _largest(self) -> int:
        """Bytes that a chunk may have, by the run's header."""
        if self._header is not None:
            return self._header.largest_file
        try:
            return RunHeader.from_attrs(attributes(limits.read_plain(self._path, META), META)).largest_file
        except (GradlogError, OSError):
            return limits.FILE

    def get(self, key: str) -> bytes | None:
        """Read a plain file; None if there is none, empty if it is no plain file or too large."""
        try:
            return limits.read_plain(self._path, key, self._largest if ChunkKey.parse(split_key(key)[1]) else None)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except CorruptRunError:
            return b""

    def keys(self) -> list[str]:
        """Walk the folder."""
        return sorted(key for key, _ in limits.walk(self._path)) if os.path.isdir(self._path) else []


def open_files(path: str | os.PathLike[str]) -> Files:
    """Files of the run at a local folder, a .zip of one, or an fsspec URL.

    Raises
    ------
    NotARunError
        Nothing is there.
    """
    if os.path.isdir(path):
        return Folder(path)
    from gradlog.analysis.reading.store.stores import StoreFiles

    return StoreFiles(path)


class Shards:
    """A compacted segment seen as the chunks and manifests that it was made of.

    Attributes
    ----------
    listed : set of str
        Files that were needed so far.
    problems : list of str
        Shards among them that cannot be unpacked.
    """

    def __init__(self, files: Files, segment: SegmentHeader) -> None:
        self._files, self._name, self._count = files, segment.name, segment.shard
        # The newest shard of each array: manifests go through all arrays, one chunk at a time.
        self._open: dict[str, tuple[str, list[memoryview | None]]] = {}
        lines = files.get(f"{segment.name}/{MANIFESTS}")
        try:
            self._manifests = [] if lines is None else split_lines(lines, segment.flushes, MANIFESTS)
        except CorruptRunError:
            self._manifests = []
        self.listed = {MANIFESTS}
        self.problems: list[str] = []

    def get(self, key: str) -> bytes | memoryview | None:
        """Content of a chunk or manifest by the key it had."""
        key = key.removeprefix(f"{self._name}/")
        if key.startswith("manifest/"):
            i = int(key[-11:-5])
            return self._manifests[i] if i < len(self._manifests) else None
        chunk = ChunkKey.parse(key)
        if chunk is None or chunk.array in SNAPSHOTS:  # never in shards
            self.listed.add(key)
            return self._files.get(f"{self._name}/{key}")
        row, *rest = chunk.place
        shard = str(ChunkKey(chunk.array, (row // self._count, *rest), shard=True))
        column = f"{chunk.array}/{rest}"
        if column not in self._open or self._open[column][0] != shard:
            self._open[column] = (shard, self._chunks(shard))
            self.listed.add(shard)
        chunks = self._open[column][1]
        return chunks[row % self._count] if chunks else None

    def _chunks(self, shard: str) -> list[memoryview | None]:
        data = self._files.get(f"{self._name}/{shard}")
        try:
            return [] if data is None else shards.unpack(data, self._count)
        except ValueError as error:
            self.problems.append(f"{shard}: {error}")
            return []
