"""Small columns of a local segment, file by file: zarr's machinery costs ten times what reading and decoding do.

A million steps are thousands of chunks of a few hundred bytes; whoever opens a run reads two such columns.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray


def read(array: Any) -> NDArray[Any]:
    """All of a column (rows,), as ``array[:]`` gives it; a chunk that is missing is left to that to fill.

    Raises
    ------
    ValueError, RuntimeError
        A chunk is damaged.
    """
    folder = local_folder(array)
    (rows,), (size,) = array.shape, array.chunks
    chunks = -(-rows // size)
    if folder is None or chunks < 2:
        return np.asarray(array[:])
    out = np.empty(chunks * size, array.dtype)
    codec = Zstd()
    for i in range(chunks):
        try:
            data = (folder / f"c.{i}").read_bytes()
        except FileNotFoundError:
            return np.asarray(array[:])
        if int(google_crc32c.value(data[:-4])).to_bytes(4, "little") != data[-4:]:
            raise ValueError(f"checksum of chunk {i} does not fit")
        codec.decode(data[:-4], out[i * size : (i + 1) * size])
    return out[:rows]


def stored(array: Any) -> tuple[int, int] | None:
    """Bytes of an array's files, and how many of its chunks are there; None where ``local_folder`` is None."""
    folder = local_folder(array)
    if folder is None:
        return None
    grid = [-(-s // c) for s, c in zip(array.shape, array.chunks, strict=True)]
    size = chunks = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            size += entry.stat().st_size
            place = entry.name.split(".")[1:]
            if entry.name.startswith("c.") and len(place) == len(grid) and all(p.isdigit() for p in place):
                chunks += all(int(p) < g for p, g in zip(place, grid, strict=True))
    return size, chunks


def local_folder(array: Any) -> Path | None:
    """Folder of an array whose chunks are files of their own; None for shards and for stores of other kinds."""
    root = getattr(array.store_path.store, "root", None)
    if array.shards is not None or not isinstance(root, Path):
        return None
    folder = root / str(array.store_path.path)
    return folder if folder.is_dir() else None
