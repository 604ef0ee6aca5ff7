"""Where bytes go: a local directory or any fsspec URL, behind a few verbs.

A local file appears whole or not at all (temporary file, then atomic replace); object stores promise the
same of a put. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from gradlog.errors import CorruptRunError, MissingDependencyError, StoreUnavailableError
from gradlog.format import limits
from gradlog.format.codec import Buffers
from gradlog.format.names import META, WAITING_PATTERN, is_leftover, is_part_of_run, is_temporary, temporary
from gradlog.storage.paths import absolute, is_url

_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}

_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync

_HOLE = bytes(16 * 2**10)
"""So many zeros are worth a hole in a file."""

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")

REQUEST_PAUSES = (0.5, 2.0, 8.0)
"""Seconds before a failed request to an object store is made again."""


class Sink(Protocol):
    """The verbs that the store needs."""

    local: Path | None

    def put(self, key: str, data: Buffers) -> None:
        """Write one object atomically, replacing what stood there; in a segment that is there."""

    def create(self, key: str, data: Buffers) -> bool:
        """Write one object only if the key is free; tell whether it was. Of two writers one is told that it was."""

    def get(self, key: str) -> bytes:
        """Read one object; FileNotFoundError if there is none."""

    def names(self) -> list[str]:
        """Names of the first level, files and folders, sorted."""

    def keys(self, prefix: str) -> list[str]:
        """Keys of all objects below a folder, sorted."""

    def discard(self, key: str) -> None:
        """Delete one object, which may be gone already."""

    def clear(self) -> None:
        """Delete the run and nothing else, its root metadata last: a kill leaves what is still a run."""

    def sweep(self, segment: str = "") -> None:
        """Delete what killed writers left of files that were not whole."""


class LocalSink:
    """A directory of the local file system. Nothing in it is read, written or deleted through a link.

    Parameters
    ----------
    path : str or Path
        The run's directory, or a link to it; created on the first write.
    durable : bool
        Flush every file to the device before it takes its name, against loss of power.
    """

    def __init__(self, path: str | os.PathLike[str], durable: bool = False) -> None:
        self._path = Path(os.path.realpath(path))
        self.local: Path | None = self._path
        self._durable = durable

    def put(self, key: str, data: Buffers) -> None:
        """Write to a temporary neighbour, then replace."""
        target = self._place(key)
        temporary = self._write(target, data, new=False)
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
        target = self._place(key)
        temporary = self._write(target, data, new=True)
        try:
            try:
                os.link(temporary, target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                os.close(new_file(target))
                os.replace(temporary, target)
        except FileExistsError:
            return False
        except FileNotFoundError:  # who found the name taken may have swept our temporary file
            if not os.path.lexists(target):
                raise
            return False
        finally:
            _discard(temporary)
        return True

    def get(self, key: str) -> bytes:
        """Read a plain file of bounded size."""
        return limits.read_plain(self._path, key)

    def names(self) -> list[str]:
        """List the directory."""
        return sorted(os.listdir(self._path)) if self._path.is_dir() else []

    def keys(self, prefix: str) -> list[str]:
        """Walk the plain files, and links as if they were files."""
        found = []
        for folder, folders, files in os.walk(self._place(f"{prefix}/")):
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            found += [Path(folder, name).relative_to(self._path).as_posix() for name in files + links]
        return sorted(found)

    def discard(self, key: str) -> None:
        """Unlink a file."""
        with contextlib.suppress(FileNotFoundError):
            self._place(key).unlink()

    def clear(self) -> None:
        """Move the run aside, inside its own folder, then delete it: a live writer finds its folder gone at once."""
        parts = [name for name in self.names() if is_part_of_run(name)]
        if not parts and not os.path.lexists(self._path / META):
            return
        aside = self._path / temporary("replacing")
        aside.mkdir()
        for name in [*parts, META]:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._path / name, aside / name)
        whole = self._path / temporary("replaced")
        os.rename(aside, whole)
        _remove(whole)

    def sweep(self, segment: str = "") -> None:
        """Delete what killed writers left unfinished: in the run's own folder, and in a segment without a writer."""
        for key in self.keys(segment) if segment else []:
            name = key.rpartition("/")[2]
            if is_temporary(name) or WAITING_PATTERN.fullmatch(name):
                self.discard(key)
        for name in self.names() if (self._path / META).exists() else []:
            if is_leftover(name):
                _remove(self._path / name)

    def _place(self, key: str) -> Path:
        """Path of a key, on the way to which there is no link: what is behind one is not the run's."""
        path = self._path
        *folders, name = key.split("/")
        for folder in folders:
            path = path / folder
            _refuse_link(path)
        return path / name

    def _write(self, target: Path, data: Buffers, new: bool) -> str:
        path = str(target.with_name(temporary(target.name)))
        try:
            write_new(path, data, self._durable)
        except FileNotFoundError:
            self._make(target.parent, new)
            write_new(path, data, self._durable)
        return path

    def _make(self, folder: Path, new: bool) -> None:
        """Make a folder on demand: the run's with its root file, a segment's with its claim.

        A run or a segment that somebody deleted or replaced does not come back as a torso.
        """
        inside = folder.relative_to(self._path).parts
        needed = self._path / Path(*inside[: 0 if new else 1])
        if inside and not needed.is_dir():
            raise FileNotFoundError(f"the run's directory {needed} is gone")
        os.makedirs(folder, exist_ok=True)


class UrlSink:
    """Any fsspec URL (``memory://``, ``s3://``, ``gs://``): objects appear whole by the store's own promise."""

    local: Path | None = None

    def __init__(self, url: str, pauses: Sequence[float] = REQUEST_PAUSES) -> None:
        import fsspec

        self._pauses = pauses
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise MissingDependencyError(f"{url}: {error}; for s3://: pip install 'gradlog-zarr[s3]'") from error
        self._conditional = "mode" in self._takes("pipe_file")
        # s3fs asks for the size of an object before it reads it, to read parts of a large one at once; ours are small
        self._whole = {"max_concurrency": 1} if "max_concurrency" in self._takes("cat_file") else {}

    def put(self, key: str, data: Buffers) -> None:
        """Upload one object."""
        self._try(self._fs.pipe_file, f"{self._root}/{key}", b"".join(bytes(piece) for piece in data))

    def create(self, key: str, data: Buffers) -> bool:
        """Upload one object if the key is free: a conditional put, where the store has such.

        What stands there afterwards tells whose it is. So does a try whose answer was lost, and is not mistaken for
        another's; and of two writers in a store that knows no conditions it is the later one's.
        """
        whole = b"".join(bytes(piece) for piece in data)
        if not self._conditional and self._try(self._fs.exists, f"{self._root}/{key}"):
            return False
        self._try(self._upload_new, f"{self._root}/{key}", whole)
        return self.get(key) == whole

    def _upload_new(self, path: str, data: bytes) -> None:
        """Put under a condition. That somebody was quicker is no failure here; every client words it otherwise."""
        try:
            self._fs.pipe_file(path, data, **({"mode": "create"} if self._conditional else {}))
        except Exception as error:
            if self._fs.exists(path):
                return
            if not isinstance(error, OSError) or error.errno != errno.ENOSYS:
                raise
            self._fs.pipe_file(path, data)  # a store that knows no conditions

    def get(self, key: str) -> bytes:
        """Download one object."""
        return bytes(self._try(self._fs.cat_file, f"{self._root}/{key}", **self._whole))

    def names(self) -> list[str]:
        """List the first level."""
        self._fs.invalidate_cache()
        try:
            found = self._try(self._fs.ls, self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted({name.rstrip("/").rsplit("/", 1)[-1] for name in found})

    def keys(self, prefix: str) -> list[str]:
        """List every object below a prefix."""
        self._fs.invalidate_cache()
        root = self._root.rstrip("/") + "/"
        found = self._try(self._fs.find, root + prefix)
        return sorted(name[name.index(root) + len(root) :] for name in found)

    def discard(self, key: str) -> None:
        """Delete one object."""
        with contextlib.suppress(FileNotFoundError):
            self._try(self._fs.rm_file, f"{self._root}/{key}")

    def clear(self) -> None:
        """Delete the segments' objects, then the root's."""
        for name in filter(is_part_of_run, self.names()):
            for key in self.keys(name):
                self.discard(key)
        self.discard(META)

    def sweep(self, segment: str = "") -> None:
        """Nothing to do: an object appears whole or not at all."""

    def _takes(self, call: str) -> Collection[str]:
        """Names of the arguments that a call of this client takes."""
        return inspect.signature(getattr(self._fs, f"_{call}", getattr(self._fs, call))).parameters

    def _try(self, call: Callable[Arguments, Answer], *args: Arguments.args, **options: Arguments.kwargs) -> Answer:
        """Call; after a failure, a store that asks to slow down say, again after each of the pauses.

        Clients of object stores raise what they like, and not OSError alone, where nobody answers.
        """
        pauses = iter(self._pauses)
        while True:
            try:
                return call(*args, **options)
            except FileNotFoundError:
                raise
            except Exception as error:
                pause = next(pauses, None)
                if pause is None:
                    raise StoreUnavailableError(f"the store does not answer as it should: {_reason(error)}") from error
                time.sleep(pause)


def open_sink(
    path: str | os.PathLike[str], durable: bool = False, pauses: Sequence[float] = REQUEST_PAUSES
) -> LocalSink | UrlSink:
    """Sink for a local path or an fsspec URL.

    >>> open_sink("run.zarr").local.name
    'run.zarr'
    """
    text = absolute(path)
    return UrlSink(text, pauses) if is_url(text) else LocalSink(text, durable)


def new_file(path: str | os.PathLike[str]) -> int:
    """Descriptor of a file that was not there: never one behind a link, nor one that has another name too."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def write_new(path: str, data: Buffers, durable: bool = False) -> None:
    """Write a file that was not there; after a failure it is not there again."""
    fd = new_file(path)
    try:
        for piece in data:
            _write_sparsely(fd, memoryview(piece).cast("B"))
        if durable:
            _sync(fd)
    except BaseException:
        os.close(fd)
        _discard(path)
        raise
    os.close(fd)


def _write_sparsely(fd: int, data: memoryview) -> None:
    """Write; long runs of zeros, as in the last chunk of a short run, become holes that take no room on disk."""
    at, size, step = 0, len(data), len(_HOLE)
    while at < size:
        stop = at
        while stop < size and data[stop : stop + step] != _HOLE:
            stop += step
        view = data[at:stop]
        while view:
            view = view[os.write(fd, view) :]
        at = min(stop, size)
        while data[at : at + step] == _HOLE:
            at += step
            os.lseek(fd, step, os.SEEK_CUR)
    os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))


def _reason(error: Exception) -> str:
    """Tell what an exception says, in one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def _discard(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _remove(path: Path) -> None:
    """Delete a file or folder that nothing refers to. What cannot be deleted now is swept another time."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        _discard(str(path))


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise CorruptRunError(
            f"{path} is a link; a run has plain files and folders only, and nothing is read, written or deleted "
            "through a link. Put what it points to in its place"
        )


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
