"""Bounds on what a store may make its reader spend, checked before anything is read: here, and for every verb.

A store may come from a stranger. A link in it may point anywhere, a pipe blocks its reader, and a device never ends. A
few bytes of JSON may declare more rows than there is memory, and a small file may unpack to a large one. So a file is
opened only if it is a plain one of a bounded size. A document is parsed only if it holds a bounded number of values.
What headers declare is bounded where they are read (``gradlog.format.header``).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

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

Document = dict[str, Any]
"""A JSON object as it was parsed. Any: its values are not checked yet; ``gradlog.format.fields`` does that."""

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


def most_stored(decoded: int) -> int:
    """Bytes that the file of a chunk may have, by how many it decodes to."""
    return decoded + decoded // 64 + 4096


def require_size(where: str, size: int, largest: int) -> None:
    """Refuse more bytes than are read of one file.

    Raises
    ------
    CorruptRunError
        There are more.
    """
    if size > largest:
        raise CorruptRunError(f"{where}: {size:,} bytes are more than is read of one file; at most {largest:,}")


def parse_json(data: bytes | memoryview, where: str) -> object:
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


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def parse_object(data: bytes | memoryview, where: str) -> Document:
    """Parse a JSON document that must be an object; raises as ``parse_json`` does."""
    document = parse_json(data, where)
    if not isinstance(document, dict):
        raise CorruptRunError(f"{where}: expected a JSON object, got {type(document).__name__}")
    return document


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
