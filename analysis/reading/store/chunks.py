"""Arrays of a local segment, file by file: zarr's machinery costs ten times what reading and decoding small chunks do.

A million steps are thousands of chunks, most of a few hundred bytes. Those of the sketch are large, but go from the
file to where they are wanted, without a copy that the allocator may keep.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.format import limits
from gradlog.format.codec import CHECKED, checksum, decode, is_intact
from gradlog.format.layout import ChunkKey

if TYPE_CHECKING:
    import zarr
    from zarr.core.metadata.v3 import ArrayV3Metadata

    Stored = zarr.Array[ArrayV3Metadata]

PIECE = 2**16
"""Rows of a column that are read together."""


def read(array: Stored, start: int = 0, stop: int | None = None) -> NDArray[np.generic]:
    """Rows [start, stop) of a column or table, as ``array[start:stop]`` gives them, which also fills missing chunks.

    Raises
    ------
    ValueError, RuntimeError
        A chunk is damaged.
    """
    stop = array.shape[0] if stop is None else min(stop, array.shape[0])
    folder, size = local_folder(array), array.chunks[0]
    chunks = range(start // size, -(-stop // size))
    if folder is None or len(chunks) < 2 or any(c < s for c, s in zip(array.chunks[1:], array.shape[1:], strict=True)):
        return np.asarray(array[start:stop])
    out = np.empty((len(chunks) * size, *array.chunks[1:]), array.dtype)
    for i, chunk in enumerate(chunks):
        part = out[i * size : (i + 1) * size]
        try:
            data = limits.read_plain(folder, _file(array, chunk), limits.most_stored(part.nbytes))
        except FileNotFoundError:
            return np.asarray(array[start:stop])
        if not is_intact(data):
            raise ValueError(f"checksum of chunk {chunk} does not fit")
        part[:] = decode("zstd", data, array.dtype, part.shape)
    first = chunks.start * size
    return out[(slice(start - first, stop - first), *map(slice, array.shape[1:]))]


def _file(array: Stored, chunk: int) -> str:
    """Name of the file of a chunk that holds whole rows."""
    return ChunkKey("", (chunk, *[0] * (array.ndim - 1))).name


def pieces(array: Stored) -> Iterator[NDArray[np.generic]]:
    """All rows, some tens of thousands at a time and whole files."""
    size = (array.shards or array.chunks)[0]
    step = max(1, PIECE // size) * size
    for start in range(0, array.shape[0], step):
        yield read(array, start, start + step)


def read_raw(array: Stored, start: int, stop: int, out: NDArray[np.generic]) -> bool:
    """Read rows [start, stop) of an array of uncompressed chunks into ``out``, C order.

    Returns
    -------
    bool
        False where that is zarr's task, and ``out`` holds nothing of use: the chunks are not files of their own, or one
        is missing.

    Raises
    ------
    ValueError
        A chunk is damaged.
    """
    folder, size = local_folder(array), array.chunks[0]
    if folder is None or sys.byteorder != "little":
        return False
    spare = None
    for chunk in range(start // size, -(-stop // size)):
        low, high = max(start, chunk * size), min(stop, (chunk + 1) * size)
        target = out[low - start : high - start]
        if high - low < size:
            spare = np.empty((size, *out.shape[1:]), out.dtype) if spare is None else spare
        whole = target if spare is None or high - low == size else spare
        try:
            _read_file(folder, _file(array, chunk), whole, chunk)
        except FileNotFoundError:
            return False
        if whole is not target:
            target[:] = whole[low - chunk * size : high - chunk * size]
    return True


def _read_file(folder: str, name: str, out: NDArray[np.generic], chunk: int) -> None:
    """Read a file of raw values and their CRC-32C."""
    check = bytearray(CHECKED + 1)
    with os.fdopen(limits.open_plain(folder, name, out.nbytes + 2**20), "rb", buffering=0) as file:
        flat = out.reshape(-1).view(np.uint8)
        done = 0
        while done < len(flat) and (count := file.readinto(flat[done:].data)):
            done += count
        if done < len(flat) or file.readinto(check) != CHECKED:
            raise ValueError(f"chunk {chunk} is not of the size that its shape says")
    if checksum(flat.data) != check[:CHECKED]:
        raise ValueError(f"checksum of chunk {chunk} does not fit")


def stored(array: Stored) -> tuple[int, int] | None:
    """Bytes of an array's files, and how many of its chunks are there; None where ``local_folder`` is None."""
    folder = local_folder(array)
    if folder is None:
        return None
    grid = [-(-s // c) for s, c in zip(array.shape, array.chunks, strict=True)]
    size = chunks = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # a live writer's temporary file has its name by now
                size += entry.stat(follow_symlinks=False).st_size
            chunks += is_chunk(entry.name, grid)
    return size, chunks


def is_chunk(name: str, grid: Sequence[int], shard: bool = False) -> bool:
    """Whether a file's name below its array is that of one of its chunks, or of its shards.

    >>> is_chunk("c.1.0", [2, 1]), is_chunk("c.2.0", [2, 1]), is_chunk("c/0/0", [2, 1], True)
    (True, False, True)
    """
    key = ChunkKey.parse(f"array/{name}")
    if key is None or key.shard != shard or len(key.place) != len(grid):
        return False
    return all(place < most for place, most in zip(key.place, grid, strict=True))


def local_folder(array: Stored) -> str | None:
    """Folder of an array whose chunks are files of their own; None for shards and for stores of other kinds.

    Raises
    ------
    CorruptRunError
        A link is in its place.
    """
    root = getattr(array.store_path.store, "root", None)
    if array.shards is not None or not isinstance(root, Path):
        return None
    try:
        return limits.plain_folder(root, str(array.store_path.path).split("/"))
    except (FileNotFoundError, NotADirectoryError):
        return None
