"""Digests: what a manifest says of chunks, the next manifest of this one, and a segment's metadata of themselves."""

from __future__ import annotations

import hashlib
import re
from typing import Any

NO_CHECK = "0" * 64
_CHECK = b'"check":"%s"'


def digest(*pieces: Any) -> str:
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
