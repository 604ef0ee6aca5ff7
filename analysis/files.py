"""The objects of a run as bytes by key, wherever they lie: what the integrity check reads."""

from __future__ import annotations

import os
from typing import Protocol

from gradlog import shards
from gradlog.schema import MANIFESTS, SNAPSHOTS, SegmentHeader


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


def open_files(path: str | os.PathLike[str]) -> Files:
    """Files of the run at a local folder, a .zip of one, or an fsspec URL.

    Raises
    ------
    NotARunError
        Nothing is there.
    """
    if os.path.isdir(path):
        return Folder(path)
    from gradlog.analysis.stores import StoreFiles

    return StoreFiles(path)


class Shards:
    """A compacted segment seen as the chunks and manifests that it was made of.

    Attributes
    ----------
    listed : set of str
        Files that were needed so far.
    """

    def __init__(self, files: Files, segment: SegmentHeader) -> None:
        self._files, self._name, self._count = files, segment.name, segment.shard
        # The newest shard of each array: manifests go through all arrays, one chunk at a time.
        self._open: dict[str, tuple[str, list[memoryview | None]]] = {}
        lines = files.get(f"{segment.name}/{MANIFESTS}")
        self._manifests = [] if lines is None else lines.split(b"\n")
        self.listed = {MANIFESTS}

    def get(self, key: str) -> bytes | memoryview | None:
        """Content of a chunk or manifest by the key it had."""
        key = key.removeprefix(f"{self._name}/")
        if key.startswith("manifest/"):
            i = int(key[-11:-5])
            return self._manifests[i] if i < len(self._manifests) else None
        array, _, place = key.partition("/c.")
        if array in SNAPSHOTS:  # never in shards
            self.listed.add(key)
            return self._files.get(f"{self._name}/{key}")
        row, *rest = map(int, place.split("."))
        shard = f"{array}/c/" + "/".join(map(str, [row // self._count, *rest]))
        column = f"{array}/{rest}"
        if column not in self._open or self._open[column][0] != shard:
            self._open[column] = (shard, self._chunks(shard))
            self.listed.add(shard)
        chunks = self._open[column][1]
        return chunks[row % self._count] if chunks else None

    def _chunks(self, shard: str) -> list[memoryview | None]:
        data = self._files.get(f"{self._name}/{shard}")
        try:
            return [] if data is None else shards.unpack(data, self._count)
        except ValueError:
            return []
