"""A folder of computed things by key: bounded, safe to share between processes, safe to delete at any time.

An entry is one file: 32 bytes of BLAKE2b, a line of JSON with the name, type and shape of each array, and their bytes.
A summary has a thousand arrays: ``npz`` took a third of a millisecond for each. An entry appears whole or not at all;
one whose digest does not fit is as good as absent and is written again. The files least recently used go first. The
folder is ``$GRADLOG_CACHE``, or ``gradlog`` in the user's cache folder; never the run itself, whose files are all
accounted for in its manifests.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache as once
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

import gradlog.analysis
from gradlog.errors import GradlogError
from gradlog.format import limits
from gradlog.format.sizes import size_setting

Arrays = Mapping[str, NDArray[np.generic]]
Kept = TypeVar("Kept")

LIMIT = 2 * 2**30
"""Bytes kept on disk unless ``$GRADLOG_CACHE_SIZE`` says otherwise."""

SUFFIX, PARTIAL = ".entry", ".partial"
STALE = 3600.0
"""Seconds after which a temporary file belongs to nobody."""


def default_folder() -> Path:
    """``$GRADLOG_CACHE``, or the platform's folder for what can be computed again."""
    if named := os.environ.get("GRADLOG_CACHE"):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gradlog"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradlog"


class Cache:
    """Entries of named arrays.

    Parameters
    ----------
    folder : path-like, optional
        Default: see ``default_folder``. Made on the first ``put``.
    limit : int, optional
        Bytes to keep. Default: ``$GRADLOG_CACHE_SIZE`` (such as 500M), or 2 GiB.

    Examples
    --------
    >>> store = Cache(tempfile.mkdtemp())
    >>> store.put(key("squares", 3), {"x": np.arange(3) ** 2})
    >>> store.get(key("squares", 3))["x"]
    array([0, 1, 4])
    >>> store.get(key("squares", 4)) is None
    True
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, limit: int | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder)
        self.limit = size_setting("GRADLOG_CACHE_SIZE", LIMIT) if limit is None else limit
        self._written = 0

    def get(self, key: str) -> Arrays | None:
        """Arrays under a key; None where there is no sound entry."""
        path = self._path(key)
        try:
            data = limits.read_plain(self.folder, f"{key[:2]}/{path.name}", min(limits.FILE, self.limit))
            os.utime(path)
        except (OSError, GradlogError):  # nothing there, or something that is no entry
            return None
        if hashlib.blake2b(data[32:], digest_size=32).digest() != data[:32]:
            return None
        try:
            return _unpacked(data[32:])
        except Exception:  # sound bytes that another numpy wrote, or somebody else: as good as absent
            return None

    def recall(self, key: str, read: Callable[[Arrays], Kept | None]) -> Kept | None:
        """Return what ``read`` makes of the arrays under a key; None where there are none, or nothing can be made."""
        arrays = self.get(key)
        try:
            return None if arrays is None else read(arrays)
        except Exception:  # an entry that is not what it should be is computed and written again
            return None

    def put(self, key: str, arrays: Arrays) -> None:
        """Keep arrays; a folder that cannot be written or is full costs nothing but the saving."""
        data = _packed(arrays)
        if len(data) > self.limit // 4:
            return
        with contextlib.suppress(OSError):
            self._write(self._path(key), data)
            self._written += len(data)
            if self._written > self.limit // 8:
                self.trim()

    def trim(self) -> None:
        """Delete the least recently used entries beyond the limit, and temporary files that a kill left."""
        self._written, kept = 0, 0
        for _, size, path in sorted(self._entries(), reverse=True):
            kept += size
            if kept > self.limit:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(OSError):  # another process may have deleted it
                status = path.stat()
                if path.suffix == SUFFIX:
                    yield status.st_mtime, status.st_size, path
                elif path.suffix == PARTIAL and time.time() - status.st_mtime > STALE:
                    path.unlink()

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(suffix=PARTIAL, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.blake2b(data, digest_size=32).digest())
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{SUFFIX}"


def _packed(arrays: Arrays) -> bytes:
    """Bytes of plain arrays; ValueError where one holds objects."""
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    if any(array.dtype.hasobject for array in plain.values()):
        raise ValueError("expected plain arrays, got one of objects: only a pickle holds those")
    head = json.dumps([(name, array.dtype.str, array.shape) for name, array in plain.items()])
    return b"".join([head.encode(), b"\n", *(array.tobytes() for array in plain.values())])


def _unpacked(data: bytes) -> Arrays:
    """Arrays in these bytes; ValueError where they would take more memory or less than the bytes do.

    Entries of no bytes are refused: a copy of any number of them takes no memory, but the time of so many.
    """
    at = data.index(b"\n") + 1
    found = {}
    for name, kind, shape in json.loads(data[:at]):
        dtype = np.dtype(kind)
        if dtype.hasobject or not dtype.itemsize or (size := math.prod(shape) * dtype.itemsize) > len(data) - at:
            raise ValueError("an array of another size than its bytes")
        found[name] = np.ndarray(shape, dtype, data, at).copy()
        at += size
    if at != len(data):
        raise ValueError("bytes that belong to no array")
    return found


def resolve(cache: Cache | bool | str | os.PathLike[str] | None) -> Cache | None:
    """Cache meant by an argument: True is the default folder, False or None no cache, a path that folder.

    A user without a home, as some containers run their jobs, has no default folder: then nothing is kept.
    """
    if cache is None or cache is False:
        return None
    try:
        return cache if isinstance(cache, Cache) else Cache(None if cache is True else cache)
    except RuntimeError:
        return None


def key(*parts: object) -> str:
    """Digest of JSON-able parts and of the code that results come from, so that no entry outlives a change of it."""
    text = json.dumps([code(), *parts], separators=(",", ":"), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


@once
def code() -> str:
    """Digest of this process's ``gradlog``; see ``digest_of_code``."""
    return digest_of_code(Path(gradlog.__file__).parent, Path(gradlog.analysis.__file__).parent)


def digest_of_code(package: Path, analyzer: Path) -> str:
    """Digest of what decides about numbers: the analyzer, the format and the sketch it reads, and numpy's version.

    Parameters
    ----------
    package : Path
        Folder of ``gradlog``. Its command line and its integrations do not count.
    analyzer : Path
        Folder of ``gradlog.analysis``, which in a checkout lies elsewhere.
    """
    found = hashlib.blake2b(np.__version__.encode(), digest_size=16)
    for folder, apart in ((package, {"analysis", "cli", "integrations"}), (analyzer, set[str]())):
        for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in _modules(folder, apart)):
            found.update(f"\0{name}\0".encode() + hashlib.blake2b(path.read_bytes()).digest())
    return found.hexdigest()


def _modules(folder: Path, apart: Collection[str]) -> Iterator[Path]:
    """All Python modules in a folder and below, but for those in some of its subfolders."""
    for here, below, names in os.walk(folder):
        below[:] = [name for name in below if Path(here) != folder or name not in apart]
        yield from (Path(here, name) for name in names if name.endswith(".py"))
