"""Where the objects of a run come from: zarr's stores over a folder, a zip archive or a URL, and reading from them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from gradlog.analysis.reading.store.bounded_stores import Bounded, BoundedFolder, BoundedZip
from gradlog.errors import CorruptRunError, GradlogError, MissingDependencyError, NotARunError, StoreUnavailableError
from gradlog.format import limits
from gradlog.format.names import META

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

    from gradlog.analysis.reading.store.bounded_stores import Prototype, Range

Location = str | os.PathLike[str] | Store

_ANSWERS = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""There is nothing under this key."""

_DAMAGE = (ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What the bytes of an archive behind a URL (``zip::s3://...``) make its reader raise."""


@contextlib.contextmanager
def unbroken(where: str) -> Iterator[None]:
    """Turn whatever damaged bytes make zarr or a codec raise into CorruptRunError."""
    try:
        yield
    except (GradlogError, MemoryError):
        raise
    except Exception as error:
        text = str(error) or type(error).__name__
        raise CorruptRunError(f"{where}: cannot be decoded ({text}); run: gradlog audit") from error


def open_store(location: Location) -> tuple[Store, str]:
    """Open a store for reading: a folder, a .zip of one, an fsspec URL, or a zarr store. Also its prefix.

    Raises
    ------
    NotARunError
        Nothing is there.
    """
    if isinstance(location, Store):
        return location, ""
    text = os.path.expanduser(re.sub("^(file|local)://", "", os.fspath(location)))
    if "://" in text or "::" in text:
        return _open_url(text), ""
    path = Path(text)
    if not path.exists():
        raise NotARunError(f"{text}: no such file or folder; expected a run such as 'run.zarr'")
    if path.is_dir():
        return BoundedFolder(path, read_only=True), ""
    if not path.is_file():
        raise NotARunError(f"{text}: neither a folder nor a file; expected a run such as 'run.zarr'")
    store = _open_zip(path)
    if get(store, META) is None:
        folders = [f for f in list_names(store, "") if get(store, f"{f}/{META}") is not None]
        if len(folders) == 1:
            return store, folders[0] + "/"
    return store, ""


def _open_zip(path: Path) -> BoundedZip:
    if not zipfile.is_zipfile(path):
        raise NotARunError(f"{path}: neither a folder nor a zip file; expected a run such as 'run.zarr'")
    try:
        with unbroken(os.fspath(path)):
            return BoundedZip(path)
    except CorruptRunError as error:
        text = str(error)
        raise CorruptRunError(text if text.startswith(f"{path}") else f"{path}: {text}") from error


def _open_url(url: str) -> Store:
    try:
        store = RemoteStore.from_url(url, read_only=True)
    except ImportError as error:
        raise MissingDependencyError(f"{url}: {error}; for s3://: pip install 'gradlog-zarr[s3]'") from error
    except ValueError as error:  # fsspec's, on the URL itself
        raise NotARunError(f"{url}: {error}; expected a folder or a URL such as s3://bucket/run.zarr") from error
    except FileNotFoundError as error:  # of an archive, which is looked for at once
        raise NotARunError(f"{url}: nothing is there, or its store does not answer; expected a run") from error
    # File systems are shared within the process, listings and all, and a live run has more files by now.
    store.fs.invalidate_cache()
    return cast("Store", store)


class StoreFiles:
    """The objects of a run in a zip archive, behind a URL or in a zarr store, by key."""

    def __init__(self, location: Location) -> None:
        self._store, self._prefix = open_store(location)

    def get(self, key: str) -> bytes | None:
        """Content of an object; None if there is none, empty if an archive's own checksum refuses it."""
        try:
            return get(self._store, self._prefix + key)
        except CorruptRunError:
            return b""

    def keys(self) -> list[str]:
        """Every key of the run."""
        found = list_all(self._store, self._prefix)
        return sorted(key.removeprefix(self._prefix) for key in found if not key.endswith("/"))


def get(store: Store, key: str) -> bytes | None:
    """Content of an object; None if there is none. What an archive's own checksum refuses is a CorruptRunError."""
    try:
        buffer = sync(store.get(key, default_buffer_prototype()))
    except (GradlogError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged archive makes the zip reader raise
        raise CorruptRunError(f"{key}: cannot be read from the archive ({error})") from error
    return None if buffer is None else buffer.to_bytes()


def list_all(store: Store, prefix: str) -> list[str]:
    """Keys below a prefix, at any depth."""

    async def collect() -> list[str]:
        return [key async for key in store.list_prefix(prefix)]

    return sync(collect())


def list_names(store: Store, prefix: str) -> list[str]:
    """Names directly below a prefix."""

    async def collect() -> list[str]:
        return [name async for name in store.list_dir(prefix.rstrip("/"))]

    try:
        return [name.rstrip("/").rsplit("/", 1)[-1] for name in sync(collect())]
    except FileNotFoundError:
        return []


def get_many(store: Store, keys: Sequence[str]) -> list[bytes | None]:
    """Objects under these keys, up to 32 requests at a time."""

    async def collect() -> list[bytes | None]:
        limit = asyncio.Semaphore(32)

        async def one(key: str) -> bytes | None:
            async with limit:
                buffer = await store.get(key, default_buffer_prototype())
                return None if buffer is None else buffer.to_bytes()

        return await asyncio.gather(*map(one, keys))

    return list(sync(collect()))


@contextlib.contextmanager
def answering(url: str) -> Iterator[None]:
    """Turn a refusal (HTTP 503, no permission, no connection) into StoreUnavailableError.

    Clients have exceptions of their own for it, most of them no OSError; none of them says anything about the bytes.
    """
    try:
        yield
    except (GradlogError, MemoryError, *_ANSWERS, *_DAMAGE):
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise StoreUnavailableError(f"{url}: the store does not answer as it should: {text}") from error


class RemoteStore(Bounded, FsspecStore):
    """``FsspecStore`` whose readers raise StoreUnavailableError where the store refuses, and read within the bounds."""

    def _answering(self) -> contextlib.AbstractContextManager[None]:
        return answering(self.fs.unstrip_protocol(self.path))

    async def get(self, key: str, prototype: Prototype = None, byte_range: Range = None) -> Buffer | None:
        """Content of an object or of a part of it, or None."""
        most = self.most(key)
        prototype = prototype or default_buffer_prototype()
        with self._answering():
            found = await super().get(key, prototype, byte_range or RangeByteRequest(0, most + 1))
        if found is not None:
            limits.require_size(f"{self.path}/{key}", len(found), most)
            self.check(key, found.to_bytes(), byte_range)
        return found

    async def getsize(self, key: str) -> int:
        """Size of an object in bytes."""
        with self._answering():
            return await super().getsize(key)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names right below a prefix."""
        with self._answering():
            async for key in super().list_dir(prefix):
                yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Every key below a prefix."""
        with self._answering():
            async for key in super().list_prefix(prefix):
                yield key
