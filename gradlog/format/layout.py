"""The arrays of a segment: their names, shapes, dtypes and codecs, as Zarr v3 metadata.

Pure: no file is touched here. The recorder writes what this module describes, and the reader, the compaction and the
audit hold a store to it. ``docs/format.md`` describes the same for a second implementation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradlog.format import limits

if TYPE_CHECKING:
    from gradlog.format.header import RunHeader

SCALAR_COLUMNS = 16
"""Scalars are chunked in columns of 16, so that a name first seen at a late step needs no rewrite."""

SNAPSHOTS = ("theta", "theta_step")
"""Arrays of a segment that hold sketches of the parameters."""

_RAW: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]

_SHUFFLED: list[dict[str, Any]] = [
    _RAW[0],
    {
        "name": "blosc",
        "configuration": {"typesize": 4, "cname": "zstd", "clevel": 1, "shuffle": "bitshuffle", "blocksize": 0},
    },
    _RAW[1],
]

_PACKED: list[dict[str, Any]] = [_RAW[0], {"name": "zstd", "configuration": {"level": 1, "checksum": False}}, _RAW[1]]


MOST_ROWS = 2**20
"""The most rows of a chunk."""


def row_bytes(groups: int, k: int) -> int:
    """Bytes of one row of the widest array over groups."""
    return groups * max(8, 4 * k)


def most_rows(groups: int, k: int) -> int:
    """Rows of the largest chunk that readers take; 0 where one row alone is too wide.

    >>> most_rows(16, 256)
    16384
    """
    row = row_bytes(groups, k)
    return 0 if row > limits.ROW else min(MOST_ROWS, max(1, limits.CHUNK // row))


def chunk_rows(bytes_of_row: int) -> int:
    """Rows of a chunk: the power of two nearest below 4 MiB of sketch, 64 to 2048.

    Very wide rows (exact mode) get fewer than 64, so that a chunk stays within 64 MiB.

    >>> chunk_rows(16 * 256 * 4)
    256
    """
    rows = 1 << max(0, (4 * 2**20 // max(bytes_of_row, 1)).bit_length() - 1)
    floor = min(64, 1 << max(0, (64 * 2**20 // max(bytes_of_row, 1)).bit_length() - 1))
    return max(floor, min(2048, rows))


def group_metadata(attrs: Mapping[str, Any], consolidated: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Zarr v3 metadata of a group, optionally with its arrays' metadata inline."""
    meta: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
    if consolidated is not None:
        meta["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(consolidated),
        }
    return meta


def segment_arrays(header: RunHeader, rows: int, scalars: int, shard: int = 0) -> dict[str, dict[str, Any]]:
    """Zarr v3 metadata of a segment's five arrays when ``rows`` rows and ``scalars`` names are committed.

    With ``shard`` chunks to a file the chunks are those of an unsharded segment, byte for byte, as the inner chunks
    of Zarr's ``sharding_indexed`` codec.

    ``sketch`` (step, group, k) float32; ``group_norm2`` (step, group) float64; ``scalars`` (step, scalar)
    float64; ``step`` (step) int64; ``flags`` (step) uint32.
    """
    C, G, k = header.chunk, len(header.groups), header.sketch.k
    codecs = _RAW if header.codec == "raw" else _SHUFFLED
    arrays = {
        "sketch": _array((rows, G, k), (C, G, k), "float32", ("step", "group", "k"), codecs),
        "group_norm2": _array((rows, G), (C, G), "float64", ("step", "group"), _PACKED),
        "scalars": _array((rows, scalars), (C, SCALAR_COLUMNS), "float64", ("step", "scalar"), _PACKED),
        "step": _array((rows,), (C,), "int64", ("step",), _PACKED),
        "flags": _array((rows,), (C,), "uint32", ("step",), _PACKED),
    }
    return {name: _sharded(meta, shard) for name, meta in arrays.items()} if shard else arrays


def snapshot_arrays(header: RunHeader, snapshots: int) -> dict[str, dict[str, Any]]:
    """Zarr v3 metadata of the arrays that a segment has where sketches of the parameters were kept.

    ``theta`` (snapshot, group, k) float32: the run's random map applied to the parameters; ``theta_step`` (snapshot)
    int64: the step before which they had these values. One chunk a snapshot, never in shards.
    """
    if not snapshots:
        return {}
    G, k = len(header.groups), header.sketch.k
    return {
        "theta": _array((snapshots, G, k), (1, G, k), "float32", ("snapshot", "group", "k"), _RAW),
        "theta_step": _array((snapshots,), (1,), "int64", ("snapshot",), _PACKED),
    }


def decoded_bytes(meta: Mapping[str, Any]) -> int:
    """Bytes that a chunk of an array with this metadata decodes to."""
    shape: list[int] = meta["chunk_grid"]["configuration"]["chunk_shape"]
    return math.prod(shape) * int(meta["data_type"][-2:]) // 8


def _sharded(meta: dict[str, Any], shard: int) -> dict[str, Any]:
    inner = meta["chunk_grid"]["configuration"]["chunk_shape"]
    codec = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": inner,
            "codecs": meta["codecs"],
            "index_codecs": _RAW,
            "index_location": "end",
        },
    }
    return meta | {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [inner[0] * shard, *inner[1:]]}},
        # Another separator than chunks have: shards are written beside them and then take over in one commit.
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [codec],
    }


def _array(
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: str,
    dims: tuple[str, ...],
    codecs: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN" if dtype.startswith("float") else 0,
        "codecs": codecs,
        "dimension_names": list(dims),
        "attributes": {},
    }
