"""The chain of a segment: every flush wrote a manifest with the digests of its chunks and of the manifest before.

The chain starts at the digest of the root's metadata and ends at the head that the segment's metadata name, which carry
a digest of themselves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradlog.errors import CorruptRunError
from gradlog.format.fields import shown
from gradlog.format.limits import Document, parse_object
from gradlog.format.names import MANIFEST, MANIFESTS

if TYPE_CHECKING:
    from gradlog.format.header import SegmentHeader

NO_CHECK = "0" * 64
_CHECK = b'"check":"%s"'


def digest(*pieces: bytes | memoryview) -> str:
    """BLAKE2b-256 of bytes-like pieces in hex, as ``b2sum -l 256`` prints it."""
    h = hashlib.blake2b(digest_size=32)
    for piece in pieces:
        h.update(memoryview(piece).cast("B"))
    return h.hexdigest()


def seal(metadata: bytes) -> bytes:
    """Put the digest of a segment's metadata file into its ``check`` field, which holds zeros so far."""
    return metadata.replace(_CHECK % NO_CHECK.encode(), _CHECK % digest(metadata).encode(), 1)


def is_sealed(metadata: bytes) -> bool:
    """Whether a segment's metadata file agrees with its own digest."""
    found = re.search(rb'"check":"([0-9a-f]{64})"', metadata)
    return found is not None and digest(metadata.replace(found[1], NO_CHECK.encode(), 1)) == found[1].decode()


class Manifest(NamedTuple):
    """One link of the chain.

    Attributes
    ----------
    digest : str
        Of its bytes.
    rows : int
        Rows of the segment that are committed with it.
    chunks : dict of str to str
        Digests of its chunks by their keys.
    body : dict
        All that it says.
    """

    digest: str
    rows: int
    chunks: dict[str, str]
    body: Document


def manifest_reader(get: Callable[[str], bytes], segment: SegmentHeader) -> Callable[[int], bytes]:
    """Return what reads a segment's manifests by number: files of their own, or the lines of one after compaction.

    Parameters
    ----------
    get : callable
        Content of a file of the segment.
    """
    if not segment.shard:
        return lambda i: get(MANIFEST.format(i))
    return split_lines(get(MANIFESTS), segment.flushes, f"{segment.name}/{MANIFESTS}").__getitem__


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


def walk(manifests: Iterable[bytes], before: str, where: str) -> Iterator[Manifest]:
    """Walk along the chain.

    Parameters
    ----------
    manifests : iterable of bytes
    before : str
        Digest of the root's metadata.
    where : str
        The segment, for messages.

    Raises
    ------
    CorruptRunError
        One is malformed, or does not follow the one before.
    """
    for i, data in enumerate(manifests):
        try:
            body = parse_object(data, f"{where}: manifest {i}")
            chunks = {key: str(entry["blake2b"]) for key, entry in body["chunks"].items()}
            follows, link = body["prev"] == before, Manifest(digest(data), body["rows"][1], chunks, body)
        except (LookupError, TypeError, AttributeError) as error:
            raise CorruptRunError(f"{where}: manifest {i} is not one of this format: {shown(error)}") from error
        if not follows:
            raise CorruptRunError(f"{where}: manifest {i} does not follow the one before; run: gradlog audit")
        before = link.digest
        yield link
