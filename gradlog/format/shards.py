"""The shard file of a compacted segment: chunks one after another, then Zarr's index of them.

The index has an (offset u64, length u64) pair a chunk, all ones where there is none, and a CRC-32C.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import google_crc32c
import numpy as np

_ABSENT = 2**64 - 1


def pack(chunks: Iterable[bytes | None], count: int) -> list[bytes]:
    """Pieces of a shard file that holds up to ``count`` chunks; None where a chunk is absent."""
    index = np.full((count, 2), _ABSENT, "<u8")
    pieces, at = [], 0
    for i, chunk in enumerate(chunks):
        if chunk is not None:
            index[i] = at, len(chunk)
            pieces.append(chunk)
            at += len(chunk)
    table = index.tobytes()
    return [*pieces, table, struct.pack("<I", google_crc32c.value(table))]


def unpack(data: bytes, count: int) -> list[memoryview | None]:
    """Chunks of a shard file, as views of it, which may be large.

    Raises
    ------
    ValueError
        The index is damaged, points outside the file, or leaves some of it out.
    """
    size = 16 * count
    table = data[len(data) - size - 4 : len(data) - 4]
    if len(data) < size + 4 or struct.unpack("<I", data[-4:])[0] != google_crc32c.value(table):
        raise ValueError("the shard's index is damaged")
    chunks: list[memoryview | None] = []
    held = size + 4
    for offset, length in np.frombuffer(table, "<u8").reshape(count, 2).tolist():
        if offset == length == _ABSENT:
            chunks.append(None)
        elif offset + length > len(data) - size - 4:
            raise ValueError("the shard's index points outside the file")
        else:
            chunks.append(memoryview(data)[offset : offset + length])
            held += length
    if held != len(data):
        raise ValueError("the shard holds bytes that its index does not account for")
    return chunks
