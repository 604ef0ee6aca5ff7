"""A zarr store behind a URL that says so when nobody answers, instead of raising what its client library happens to."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore

from gradlog.analysis.reading.bounded_stores import Bounded
from gradlog.errors import GradlogError, StoreUnavailableError
from gradlog.format import limits

_ANSWERS = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""There is nothing under this key."""

_DAMAGE = (ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What the bytes of an archive behind a URL (``zip::s3://...``) make its reader raise."""


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
        protocol = self.fs.protocol
        return answering(f"{protocol if isinstance(protocol, str) else protocol[0]}://{self.path}")

    async def get(self, key: str, prototype: Any = None, byte_range: ByteRequest | None = None) -> Any:
        """Content of an object or of a part of it, or None."""
        most = self.most(key)
        prototype = prototype or default_buffer_prototype()
        with self._answering():
            found = await super().get(key, prototype, byte_range or RangeByteRequest(0, most + 1))
        if found is not None:
            limits.require_size(f"{self.path}/{key}", len(found), most)
            self.check(key, found.to_bytes(), byte_range)
        return found

    async def get_partial_values(self, *args: Any, **options: Any) -> Any:
        """Parts of objects."""
        with self._answering():
            return await super().get_partial_values(*args, **options)

    async def exists(self, key: str) -> bool:
        """Whether there is an object."""
        with self._answering():
            return await super().exists(key)

    async def getsize(self, key: str) -> int:
        """Size of an object in bytes."""
        with self._answering():
            return await super().getsize(key)

    async def list(self) -> AsyncIterator[str]:
        """Every key."""
        with self._answering():
            async for key in super().list():
                yield key

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
