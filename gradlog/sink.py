"""Where bytes go: a local directory or any fsspec URL, behind four verbs.

A local file appears whole or not at all (temporary file, then atomic replace); object stores promise the
same of a put. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from gradlog import limits
from gradlog.errors import MissingDependencyError, StoreUnavailableError
from gradlog.paths import absolute, is_url
from gradlog.schema import PARTIAL_FILE

_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}

WAITS = (0.5, 2.0, 8.0)
"""Seconds before a failed request to an object store is made again."""

Buffers = Sequence[Any]
"""Bytes-like pieces that together make one object; big arrays are written without a copy."""


class Sink(Protocol):
    """The four verbs that the store needs."""

    local: Path | None

    def put(self, key: str, data: Buffers) -> None:
        """Write one object atomically, replacing what stood there."""

    def create(self, key: str, data: Buffers) -> bool:
        """Write one object only if the key is free; tell whether it was."""

    def get(self, key: str) -> bytes:
        """Read one object; FileNotFoundError if there is none."""

    def folders(self) -> list[str]:
        """Names of the first-level folders, sorted."""


class LocalSink:
    """A directory of the local file system.

    Parameters
    ----------
    path : str or Path
        The run's directory; created on the first write.
    durable : bool
        Flush every file to the device before it takes its name, against loss of power.
    """

    def __init__(self, path: str | os.PathLike[str], durable: bool = False) -> None:
        self.local: Path | None = Path(path).absolute()
        self._path = Path(path).absolute()
        self._durable = durable

    def put(self, key: str, data: Buffers) -> None:
        """Write to a temporary neighbour, then replace."""
        target = self._path / key
        temporary = self._write(target, data)
        try:
            os.replace(temporary, target)
        except BaseException:
            _discard(temporary)
            raise
        if self._durable:
            _sync_folder(target.parent)

    def create(self, key: str, data: Buffers) -> bool:
        """Write to a temporary neighbour, then link, which fails where the name is taken.

        File systems without hard links (some network and FUSE mounts) get an empty file first, then the content.
        """
        target = self._path / key
        temporary = self._write(target, data)
        try:
            try:
                os.link(temporary, target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
                os.replace(temporary, target)
        except FileExistsError:
            return False
        finally:
            _discard(temporary)
        return True

    def get(self, key: str) -> bytes:
        """Read a plain file of bounded size."""
        return limits.read_plain(self._path, key)

    def folders(self) -> list[str]:
        """List the directory."""
        if not self._path.is_dir():
            return []
        with os.scandir(self._path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())

    def _write(self, target: Path, data: Buffers) -> str:
        temporary = f"{target}.{os.getpid()}-{threading.get_native_id()}{PARTIAL_FILE}"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        except FileNotFoundError:
            # Folders are made on demand, but the run's own only with its root file: a run that somebody
            # deleted does not come back as a torso.
            if target.parent != self._path and not self._path.is_dir():
                raise FileNotFoundError(f"the run's directory {self._path} is gone") from None
            os.makedirs(target.parent, exist_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for piece in data:
                view = memoryview(piece).cast("B")
                while view:
                    view = view[os.write(fd, view) :]
            if self._durable:
                os.fdatasync(fd)
        except BaseException:
            os.close(fd)
            _discard(temporary)
            raise
        os.close(fd)
        return temporary


class UrlSink:
    """Any fsspec URL (``memory://``, ``s3://``, ``gs://``): objects appear whole by the store's own promise."""

    local: Path | None = None

    def __init__(self, url: str, **options: Any) -> None:
        import fsspec

        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, **options)
        except ImportError as error:
            raise MissingDependencyError(f"{url}: {error}; for s3://: pip install 'gradlog-zarr[s3]'") from error

    def put(self, key: str, data: Buffers) -> None:
        """Upload one object."""
        self._try(self._fs.pipe_file, f"{self._root}/{key}", b"".join(bytes(piece) for piece in data))

    def create(self, key: str, data: Buffers) -> bool:
        """Upload one object if the key is free. Two writers in the same instant: the last one wins."""
        if self._try(self._fs.exists, f"{self._root}/{key}"):
            return False
        self.put(key, data)
        return True

    def get(self, key: str) -> bytes:
        """Download one object."""
        return bytes(self._try(self._fs.cat_file, f"{self._root}/{key}"))

    def folders(self) -> list[str]:
        """List the first-level prefixes."""
        self._fs.invalidate_cache()
        if not self._try(self._fs.exists, self._root):
            return []
        found = self._try(self._fs.ls, self._root, detail=True)
        return sorted(e["name"].rstrip("/").rsplit("/", 1)[-1] for e in found if e["type"] == "directory")

    def _try(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call; after a failure, a store that asks to slow down say, again in 0.5, 2 and 8 seconds.

        Clients of object stores raise what they like, and not OSError alone, where nobody answers.
        """
        for wait in (*WAITS, None):
            try:
                return call(*args, **options)
            except FileNotFoundError:
                raise
            except Exception as error:
                if wait is None:
                    raise StoreUnavailableError(f"the store does not answer as it should: {_reason(error)}") from error
                time.sleep(wait)
        return None

    def clear(self) -> None:
        """Delete everything under the URL."""
        if self._fs.exists(self._root):
            self._fs.rm(self._root, recursive=True)


def open_sink(path: str | os.PathLike[str], durable: bool = False) -> LocalSink | UrlSink:
    """Sink for a local path or an fsspec URL.

    >>> open_sink("run.zarr").local.name
    'run.zarr'
    """
    text = absolute(path)
    return UrlSink(text) if is_url(text) else LocalSink(text, durable)


def clear(sink: LocalSink | UrlSink) -> None:
    """Delete a run, as mode "w" asks for; the root's metadata last, so that a kill leaves what is still a run."""
    if isinstance(sink, UrlSink):
        sink.clear()
    elif sink.local is not None and sink.local.exists():
        for folder in sink.folders():
            shutil.rmtree(sink.local / folder)
        shutil.rmtree(sink.local)


def _reason(error: Exception) -> str:
    """Tell what an exception says, in one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def _discard(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
