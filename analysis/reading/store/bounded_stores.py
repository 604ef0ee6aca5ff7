"""Zarr stores that read within the bounds of ``gradlog.format.limits``: the analyzer reads through one of them.

They open plain files only, refuse those that are too large before they read them, and chunks whose frame says that it
unpacks to another size than the run's header implies.
"""

from __future__ import annotations

import abc
import asyncio
import io
import os
import threading
import weakref
import zipfile
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, ZipStore

from gradlog.errors import CorruptRunError
from gradlog.format import limits, shards
from gradlog.format.codec import CHECKED, HEAD, frame_fault
from gradlog.format.fields import shown
from gradlog.format.header import RunHeader, SegmentHeader
from gradlog.format.layout import ChunkKey, split_key
from gradlog.format.names import is_temporary

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype

    Prototype = BufferPrototype | None
    Range = ByteRequest | None
    Parts = Sequence[tuple[int, Buffer | None]]

_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Bounded:
    """A store that knows what the chunks below each segment must decode to, once its headers are read."""

    _frames: Mapping[str, tuple[str, int]] = MappingProxyType({})
    _shards: Mapping[str, int] = MappingProxyType({})
    _largest = limits.FILE

    def expect(self, run: RunHeader, segment: SegmentHeader) -> None:
        """Hold the chunks of a segment to what its headers imply."""
        self._frames, self._largest = run.frames(), run.largest_file
        self._shards = {**self._shards, segment.name: segment.shard}

    def most(self, key: str) -> int:
        """Bytes that are read of an object."""
        return max(limits.most(key), self._largest) if ChunkKey.parse(split_key(key)[1]) else limits.most(key)

    def check(self, key: str, data: bytes, byte_range: Range) -> bytes:
        """Return the bytes of an object, or of a part of it.

        Raises
        ------
        CorruptRunError
            A chunk in there unpacks to another size than it should.
        """
        segment, inside = split_key(key)
        place = ChunkKey.parse(inside)
        frame = self._frames.get(place.array) if place else None
        if place is None or frame is None or isinstance(byte_range, SuffixByteRequest):  # the index of a shard
            return data
        chunks: Sequence[bytes | memoryview | None] = [data]
        if place.shard and byte_range is None:
            try:
                chunks = shards.unpack(data, self._shards.get(segment, 0))
            except ValueError as error:
                raise CorruptRunError(f"{key}: {error}") from error
        for chunk in chunks:
            fault = "" if chunk is None else frame_fault(*frame, bytes(chunk[:HEAD]), len(chunk))
            if fault:
                raise CorruptRunError(f"{key}: {fault}")
        return data

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[Range], *, prototype: BufferPrototype, **joining: object
    ) -> AsyncIterator[Parts]:
        """Parts of an object, each of them read and checked alone; zarr since 3.2 would join neighbours into one."""
        read = cast("Store", self).get
        yield list(enumerate(await asyncio.gather(*(read(key, prototype, part) for part in byte_ranges))))


class BoundedFiles(Bounded):
    """A bounded store of this machine."""

    @abc.abstractmethod
    def read(self, key: str, byte_range: Range) -> bytes | None:
        """Bytes of an object or of a part of it; None if there is none."""

    async def get(self, key: str, prototype: Prototype = None, byte_range: Range = None) -> Buffer | None:
        """Content of an object or of a part of it; None if there is none."""
        return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)

    def get_sync(self, key: str, *, prototype: Prototype = None, byte_range: Range = None) -> Buffer | None:
        """As ``get``, for a zarr that was told to work without a loop."""
        data = self.read(key, byte_range)
        if data is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(self.check(key, data, byte_range))

    def get_ranges_sync(
        self, key: str, byte_ranges: Sequence[Range], *, prototype: Prototype, **joining: object
    ) -> Parts:
        """As ``get_ranges``, likewise."""
        return [(i, self.get_sync(key, prototype=prototype, byte_range=part)) for i, part in enumerate(byte_ranges)]


def span(byte_range: Range, size: int) -> tuple[int, int]:
    """Start and stop, within an object of this size, of what is asked for."""
    if isinstance(byte_range, RangeByteRequest):
        return min(byte_range.start, size), min(byte_range.end, size)
    if isinstance(byte_range, OffsetByteRequest):
        return min(byte_range.offset, size), size
    if isinstance(byte_range, SuffixByteRequest):
        return max(0, size - byte_range.suffix), size
    return 0, size


class BoundedFolder(BoundedFiles, LocalStore):
    """A folder; no link in it is followed."""

    def require_plain(self, folder: str) -> None:
        """Refuse a segment with anything in it that no verb should open, whether this one would or not.

        Raises
        ------
        CorruptRunError
            A link, pipe, device, or a file that is too large for what it is.
        """
        for name, status in limits.walk(limits.plain_folder(self.root, folder.split("/"))):
            if is_temporary(name):  # a live writer's, or a killed one's: no verb opens it
                continue
            key = f"{folder}/{name}"
            if odd := limits.kind(status):
                raise CorruptRunError(f"{self.root / key}: {odd}")
            chunk = ChunkKey.parse(name)
            codec, size = self._frames.get(chunk.array, ("", 0)) if chunk and not chunk.shard else ("", 0)
            if codec == "crc32c" and status.st_size != size + CHECKED:
                implied = f"the headers imply {size + CHECKED:,}"
                raise CorruptRunError(f"{self.root / key}: {status.st_size:,} bytes, {implied}")
            limits.require_size(str(self.root / key), status.st_size, self.most(key))

    def read(self, key: str, byte_range: Range) -> bytes | None:
        """See BoundedFiles."""
        try:
            descriptor = limits.open_plain(self.root, key, self.most(key))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if byte_range is None:
                return file.readall()
            start, stop = span(byte_range, os.fstat(descriptor).st_size)
            return os.pread(descriptor, stop - start, start)


class BoundedZip(BoundedFiles, ZipStore):
    """A zip archive with a list of members that fits into memory, each of which unpacks to what the list says."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="r", read_only=True)
        self._lock = threading.RLock()
        self._zf = _open_archive(path)
        self._is_open = True
        self._folders: dict[str, dict[str, None]] = {}
        for member in self._zf.infolist():
            *folders, name = member.filename.split("/")
            for i in range(len(folders) + 1):
                child = folders[i] if i < len(folders) else name
                if child:
                    self._folders.setdefault("/".join(folders[:i]), {})[child] = None

    def read(self, key: str, byte_range: Range) -> bytes | None:
        """See BoundedFiles."""
        with self._lock:
            try:
                member = self._zf.getinfo(key)
            except KeyError:
                return None
            limits.require_size(key, member.file_size, self.most(key))
            start, stop = span(byte_range, member.file_size)
            try:
                with self._zf.open(member) as file:
                    file.seek(start)
                    return file.read(stop - start)  # of which it never unpacks more
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
                raise CorruptRunError(f"{key}: cannot be read from the archive ({error})") from error

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names right below a folder."""
        for name in self._folders.get(prefix.rstrip("/"), {}):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Every key below a folder."""
        folder = prefix.rstrip("/")
        for name in self._folders.get(folder, {}):
            key = f"{folder}/{name}" if folder else name
            if key in self._folders:
                async for below in self.list_prefix(key):
                    yield below
            else:
                yield key


class _Directory(io.FileIO):
    """An archive of which, at first, no more is read at a time than a list of members may have."""

    most = limits.DIRECTORY

    def read(self, size: int | None = -1) -> bytes:
        size = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if size > self.most:
            raise CorruptRunError("the list of its members is too long; unpack the run, or compact it before packing")
        return super().read(size) or b""


def _open_archive(path: Path) -> zipfile.ZipFile:
    file = _Directory(path)
    try:
        archive = zipfile.ZipFile(file)
        weakref.finalize(archive, file.close)
        file.most = limits.ROW
        _require_sound(archive)
    except BaseException:
        file.close()
        raise
    return archive


def _require_sound(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    if len(members) > limits.MEMBERS:
        raise CorruptRunError(
            f"{len(members):,} files are too many for an archive; unpack the run, or compact it first"
        )
    if len({member.filename for member in members}) < len(members):
        raise CorruptRunError("two members of the archive have the same name")
    for member in members:
        if member.compress_type not in _PACKED or member.flag_bits & 1:
            raise CorruptRunError(f"{shown(member.filename)} is encrypted, or neither stored nor deflated")
        archive.open(member).close()  # checks its name, so that damage to the directory hides no file of the run
