"""Values of a chunk to the bytes of its file and back: little-endian, packed or not, and a CRC-32C at the end.

numcodecs is imported when the first packed chunk is made or read, since ``import gradlog`` must stay light.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import DTypeLike, NDArray

from gradlog.format import limits
from gradlog.format.header import FULL_BITS

Numbers = NDArray[np.number]
"""An array of numbers of any type."""

Buffers = Sequence[bytes | memoryview]
"""Bytes-like pieces that together make one object; big arrays are written without a copy."""

CHECKED = 4
"""Bytes of the checksum at the end of every chunk."""

HEAD = 18
"""So many first bytes of a chunk say to how many it decodes."""


def encode(codec: str, array: Numbers, *rest: memoryview) -> Buffers:
    """Pieces of a chunk's file.

    Parameters
    ----------
    codec : {"crc32c", "zstd", "blosc"}
        What the values go through before their checksum is appended; "crc32c" for nothing.
    array : ndarray
        The values, which are not copied where nothing is done to them.
    *rest : memoryview
        Bytes that follow unpacked values.

    Examples
    --------
    >>> decode("zstd", b"".join(encode("zstd", np.arange(3))), "int64", [3]).tolist()
    [0, 1, 2]
    """
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    raw = little.reshape(-1).view(np.uint8).data
    pieces = [raw, *rest] if codec == "crc32c" else [bytes(_packer(codec).encode(little))]
    return [*pieces, checksum(*pieces)]


def decode(codec: str, data: bytes | memoryview, dtype: DTypeLike, shape: Sequence[int]) -> Numbers:
    """Values in the bytes of a chunk's file, whose checksum was compared; unpacked ones are a view of them.

    Raises
    ------
    ValueError, RuntimeError
        They hold another number of values, or are damaged.
    """
    little = np.dtype(dtype).newbyteorder("<")
    if fault := frame_fault(codec, math.prod(shape) * little.itemsize, bytes(data[:HEAD]), len(data)):
        raise ValueError(fault)
    packed = memoryview(data)[:-CHECKED]
    return np.frombuffer(packed if codec == "crc32c" else _packer(codec).decode(packed), little).reshape(shape)


def checksum(*pieces: bytes | memoryview) -> bytes:
    """CRC-32C of bytes-like pieces, as zarr's codec of that name appends it."""
    crc = 0
    for piece in pieces:
        crc = google_crc32c.extend(crc, np.frombuffer(piece, np.uint8))  # which takes no memoryview
    return int(crc).to_bytes(CHECKED, "little")


def is_intact(data: bytes | memoryview) -> bool:
    """Whether the bytes of a chunk's file end in the checksum of those before.

    >>> is_intact(b"".join(encode("zstd", np.arange(3)))), is_intact(b"damaged")
    (True, False)
    """
    return checksum(memoryview(data)[:-CHECKED]) == bytes(data[-CHECKED:])


def _packer(codec: str) -> Any:  # numcodecs has no types
    if codec == "zstd":
        from numcodecs.zstd import Zstd

        return Zstd(level=1)
    from numcodecs.blosc import BITSHUFFLE, Blosc

    return Blosc("zstd", clevel=1, shuffle=BITSHUFFLE)


def round_mantissa(x: NDArray[np.float32], bits: int) -> None:
    """Round float32 values in place to ``bits`` mantissa bits, ties to even; NaN and inf stay what they are."""
    drop = FULL_BITS - bits
    if drop > 0:
        u = x.view(np.uint32)
        u += ((u >> np.uint32(drop)) & np.uint32(1)) + np.uint32((1 << (drop - 1)) - 1)
        u &= np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)


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
        As in :func:`encode`.
    expected : int
        Bytes that the array's metadata implies.
    start : bytes
        The first 18 bytes of the chunk, or all.
    size : int
        Bytes of the chunk.
    """
    declared = {"crc32c": size - CHECKED, "zstd": zstd_size(start), "blosc": blosc_size(start)}[codec]
    if declared != expected:
        return f"a chunk decodes to {'an unknown number of' if declared is None else declared} bytes, not {expected:,}"
    if size > limits.most_stored(expected):
        return f"{size:,} stored bytes for a chunk of {expected:,}"
    return ""
