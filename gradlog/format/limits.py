"""Bounds on what a store may make its reader spend, checked before anything is read: here, and for every verb.

A store may come from a stranger. A link in it may point anywhere, a pipe blocks its reader, a device never ends, a few
bytes of JSON may declare more rows than there is memory, and a small file may unpack to a large one. So a file is
opened only if it is a plain one of a bounded size, a document is parsed only if it holds a bounded number of values,
and what headers declare is bounded where they are read (``gradlog.format.header``).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from gradlog.errors import CorruptRunError

METADATA = 32 * 2**20
"""Bytes of a JSON file. A model of 100,000 tensors needs 15 MB."""

VALUES = 2**21
"""Values in a JSON document, each of which costs some 70 bytes of memory."""

LISTING = 64 * 2**20
"""Bytes of the manifests of a compacted segment, which are parsed one by one. A million steps need 4 MB."""

FILE = 320 * 2**20
"""Bytes of any other file: a chunk, a shard, a journal. One whose single row is wider may be larger."""

FILES, DEEPEST = 2_000_000, 8
"""Files of a run, and folders in each other."""

MEMBERS, DIRECTORY = 100_000, 16 * 2**20
"""Files of a run in an archive, and bytes of the list of them, which is held in memory."""

CHUNK = 256 * 2**20
"""Bytes of a decoded chunk of several rows. The recorder makes them of 4 MiB, and of 64 MiB for very wide rows."""

ROW = 2**31
"""Bytes of one row."""

FOLDED = 2**26
"""Length of the folded vector of the sketch."""

COLUMNS = 2**16
"""Scalar names of a segment. The recorder takes one less: a record of the journal counts them in 16 bits."""

NAMES = 2**20
"""Bytes of all scalar names of a segment that the recorder takes: they stand in its header and in every manifest."""

WIDENED = 128 * 2**20
"""Bytes to which a journal's scalars may grow beyond what its file holds: names that come late are NaN before."""

_NOT_PLAIN = "a link, pipe or device, where a run has plain files only; it was not opened"


def read_plain(root: str | os.PathLike[str], key: str, most: int | None = None) -> bytes:
    """Content of a plain file of bounded size below a folder; no link on the way from there is followed.

    Parameters
    ----------
    root : path-like
        The run, which may itself be reached through links.
    key : str
        Names below it, separated by slashes.
    most : int, optional
        Bytes that are read at most. Default: what ``most`` says of such a file.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, NotADirectoryError
        There is no such file.
    CorruptRunError
        There is a link, a pipe, a device, or a file that is too large.
    """
    with os.fdopen(open_plain(root, key, most), "rb", buffering=0) as file:
        return bytes(file.readall())


def open_plain(root: str | os.PathLike[str], key: str, most_bytes: int | None = None) -> int:
    """File descriptor of a plain file for reading; see ``read_plain``."""
    *folders, name = key.split("/")
    path = os.path.join(plain_folder(root, folders), name)
    _require_plain(os.lstat(path), path)
    # Opened without waiting for the other end of a pipe, should somebody have exchanged the file meanwhile.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        _require_plain(status, path)
        require_size(path, status.st_size, most(key) if most_bytes is None else most_bytes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def plain_folder(root: str | os.PathLike[str], names: Iterable[str]) -> str:
    """Path of a folder below another; FileNotFoundError, NotADirectoryError and CorruptRunError as ``read_plain``."""
    path = os.fspath(root)
    for name in names:
        path = os.path.join(path, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode):
            raise NotADirectoryError(path)
        if not stat.S_ISDIR(mode):
            raise CorruptRunError(f"{path}: {_NOT_PLAIN}")
    return path


def _require_plain(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(path)
    if not stat.S_ISREG(status.st_mode):
        raise CorruptRunError(f"{path}: {_NOT_PLAIN}")


def most(key: str) -> int:
    """Bytes that are read of a file, by its name.

    >>> most("seg-000000-r0000/zarr.json") == METADATA, most("seg-000000-r0000/sketch/c.0.0.0") == FILE
    (True, True)
    """
    return METADATA if key.endswith(".json") else LISTING if key.endswith(".jsonl") else FILE


def require_size(where: str, size: int, largest: int) -> None:
    """Refuse more bytes than are read of one file.

    Raises
    ------
    CorruptRunError
        There are more.
    """
    if size > largest:
        raise CorruptRunError(f"{where}: {size:,} bytes are more than is read of one file; at most {largest:,}")


def parse_json(data: bytes | memoryview, where: str) -> Any:
    """Parse a JSON document of bounded size.

    Raises
    ------
    CorruptRunError
        It is malformed, too large, nested too deeply, or holds NaN or numbers of absurd length.

    Examples
    --------
    >>> parse_json(b'{"rows": [0, 16]}', "manifest")
    {'rows': [0, 16]}
    """
    text = bytes(data)
    require_size(where, len(text), METADATA)
    values = sum(map(text.count, (b",", b"[", b"{", b":")))
    if values > VALUES:
        raise CorruptRunError(f"{where}: {values:,} JSON values are more than any run has; at most {VALUES:,} are read")
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CorruptRunError(f"{where}: malformed JSON: {error}") from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def parse_object(data: bytes | memoryview, where: str) -> dict[str, Any]:
    """Parse a JSON document that must be an object; raises as ``parse_json`` does."""
    document = parse_json(data, where)
    if not isinstance(document, dict):
        raise CorruptRunError(f"{where}: expected a JSON object, got {type(document).__name__}")
    return document


def split_lines(data: bytes, count: int, where: str) -> list[bytes]:
    """Lines of the file with the manifests of a compacted segment, which must be so many.

    Raises
    ------
    CorruptRunError
        There are more or fewer.
    """
    found = data.count(b"\n") + 1
    if found != count:
        raise CorruptRunError(f"{where}: {found:,} manifests, the segment declares {count:,} flushes")
    return data.split(b"\n")


def walk(folder: str | os.PathLike[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Key and status of everything below a folder that is no folder, and of folders that lie too deep.

    Nothing is opened and no link is followed. A live writer's temporary file that is gone by now is passed over.
    """
    pending = [("", 0)]
    while pending:
        prefix, depth = pending.pop()
        with os.scandir(os.path.join(folder, prefix)) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(status.st_mode) and depth < DEEPEST:
                    pending.append((f"{prefix}{entry.name}/", depth + 1))
                else:
                    yield prefix + entry.name, status


def kind(status: os.stat_result) -> str:
    """Say what is wrong with the kind of a file, for a message; empty for a plain one."""
    if stat.S_ISDIR(status.st_mode):
        return "a folder too deep, where a run has plain files only; it was not opened"
    return "" if stat.S_ISREG(status.st_mode) else _NOT_PLAIN


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


def blosc_size(start: bytes) -> int | None:
    """Content size that a blosc frame declares; None where it is too short."""
    return int.from_bytes(start[4:8], "little") if len(start) >= 16 else None


def frame_fault(codec: str, expected: int, start: bytes, size: int) -> str:
    """Say why a stored chunk will not decode to exactly so many bytes; empty if it will.

    Parameters
    ----------
    codec : {"crc32c", "zstd", "blosc"}
        What the values went through before their checksum was appended; "crc32c" for nothing.
    expected : int
        Bytes that the array's metadata implies.
    start : bytes
        The first 18 bytes of the chunk, or all.
    size : int
        Bytes of the chunk.
    """
    declared = {"crc32c": size - 4, "zstd": zstd_size(start), "blosc": blosc_size(start)}[codec]
    if declared != expected:
        return f"a chunk decodes to {'an unknown number of' if declared is None else declared} bytes, not {expected:,}"
    if size > expected + expected // 64 + 4096:
        return f"{size:,} stored bytes for a chunk of {expected:,}"
    return ""
