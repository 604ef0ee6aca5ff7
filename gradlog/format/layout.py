"""The arrays of a segment, and the keys of their chunks.

Pure: no file is touched here. The recorder writes what this module describes, and the reader, the compaction and the
audit hold a store to it. ``docs/format.md`` describes the same for a second implementation.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from gradlog.format import limits
from gradlog.format.names import SEGMENT_PATTERN, is_temporary

if TYPE_CHECKING:
    from gradlog.format.header import RunHeader, SegmentHeader

SCALAR_COLUMNS = 16
"""Scalars are chunked in columns of 16, so that a name first seen at a late step needs no rewrite."""

MOST_ROWS = 2**20
"""The most rows of a chunk."""

Codec = Mapping[str, object]
"""Name of a codec of Zarr v3, and its configuration."""

_BYTES: Codec = {"name": "bytes", "configuration": {"endian": "little"}}
_CHECK: Codec = {"name": "crc32c"}
_ZSTD: Codec = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
_BLOSC: Codec = {
    "name": "blosc",
    "configuration": {"typesize": 4, "cname": "zstd", "clevel": 1, "shuffle": "bitshuffle", "blocksize": 0},
}
RAW, PACKED = [_BYTES, _CHECK], [_BYTES, _ZSTD, _CHECK]
_SKETCH = {"raw": RAW, "bitshuffle-zstd": [_BYTES, _BLOSC, _CHECK]}


class ArrayMetadata(TypedDict):
    """Metadata of an array, as Zarr v3 has them."""

    zarr_format: int
    node_type: str
    shape: list[int]
    data_type: str
    chunk_grid: ChunkGrid
    chunk_key_encoding: Codec
    fill_value: str | int
    codecs: list[Codec]
    dimension_names: list[str]
    attributes: dict[str, object]


class ChunkGrid(TypedDict):
    """Shape of the chunks, in its configuration."""

    name: str
    configuration: dict[str, list[int]]


class Array(NamedTuple):
    """One array of a segment; the codecs of sketches are the run's choice.

    ``record`` is the kind of its records in the journal, where it has its own.
    """

    dims: tuple[str, ...]
    dtype: str
    codecs: list[Codec] | None
    record: bytes = b""


ARRAYS = {
    "sketch": Array(("step", "group", "k"), "float32", None),
    "group_norm2": Array(("step", "group"), "float64", PACKED),
    "scalars": Array(("step", "scalar"), "float64", PACKED),
    "step": Array(("step",), "int64", PACKED),
    "flags": Array(("step",), "uint32", PACKED),
}
"""Arrays with a row for each step, in the order of a chunk's files."""

OPTIONAL = {"update": Array(("step", "group", "k"), "float32", None, b"U")}
"""Further sketches, of segments that name them: what each step did to the parameters. Journal, blocks, chunks, readers
and the audit know of them from here.
"""

SNAPSHOTS = {
    "theta": Array(("snapshot", "group", "k"), "float32", RAW),
    "theta_step": Array(("snapshot",), "int64", PACKED),
}
"""Arrays where sketches of the parameters were kept: the run's random map applied to them, and the step before which
they had these values. One chunk a snapshot, never in shards."""

_KEY = re.compile(r"([a-z0-9_]+)/c((?:\.(?:0|[1-9]\d{0,11}))+|(?:/(?:0|[1-9]\d{0,11}))+)")


@dataclasses.dataclass(frozen=True)
class ChunkKey:
    """Place of a chunk, or of a shard of chunks, below its segment.

    Attributes
    ----------
    array : str
    place : tuple of int
        Number of the chunk along each dimension.
    shard : bool
        Whether it is a file of many chunks, and ``place`` the number of that file.
    """

    array: str
    place: tuple[int, ...]
    shard: bool = False

    @classmethod
    def of(cls, array: str, index: int, column: int = 0, shard: bool = False) -> ChunkKey:
        """Key of chunk ``index`` along the rows; only scalars have more than one ``column`` of chunks.

        >>> str(ChunkKey.of("sketch", 3)), str(ChunkKey.of("scalars", 3, 1, shard=True))
        ('sketch/c.3.0.0', 'scalars/c/3/1')
        """
        dims = (ARRAYS | OPTIONAL | SNAPSHOTS)[array].dims
        return cls(array, (index, column, 0)[: len(dims)], shard)

    @classmethod
    def parse(cls, key: str) -> ChunkKey | None:
        """Read a key as :meth:`of` and a newer format's arrays write it; None for anything else.

        >>> ChunkKey.parse("sketch/c.3.0.0").index, ChunkKey.parse("sketch/zarr.json"), ChunkKey.parse("step/c.03")
        (3, None, None)
        """
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        separator, place = match[2][0], match[2][1:]
        return cls(match[1], tuple(map(int, place.split(separator))), separator == "/")

    @property
    def index(self) -> int:
        """Number along the rows."""
        return self.place[0]

    @property
    def column(self) -> int:
        """Number along the second dimension; 0 where there is none."""
        return self.place[1] if len(self.place) > 1 else 0

    @property
    def name(self) -> str:
        """Path of the file below the array."""
        separator = "/" if self.shard else "."
        return separator.join(["c", *map(str, self.place)])

    def __str__(self) -> str:
        return f"{self.array}/{self.name}"


def split_key(key: str) -> tuple[str, str]:
    """Name of the segment and key below it, of a key with any prefix; two empty texts for what is in no segment.

    >>> split_key("run.zarr/seg-000000-r0000/step/c.3")
    ('seg-000000-r0000', 'step/c.3')
    """
    parts = key.split("/")
    at = next((i for i, part in enumerate(parts) if SEGMENT_PATTERN.fullmatch(part)), None)
    return ("", "") if at is None else (parts[at], "/".join(parts[at + 1 :]))


_IN_SEGMENT = re.compile(
    r"(?:[a-z0-9_]+/)?zarr\.json|manifest/(?:\d{6,}\.json|all\.jsonl)"
    r"|\.(?:journal|torn)-\d{6,}|\.theta-\d{6,}(?:\.new)?\.partial"
)
_CLUTTER = (".DS_Store", "Thumbs.db", "desktop.ini")


def is_own(key: str) -> bool:
    """Whether a key below a segment names a file that the recorder or the compaction wrote, of any 1.x version.

    >>> is_own("seg-000000-r0000/sketch/c.3.0.0"), is_own("seg-000000-r0000/model.pt")
    (True, False)
    """
    rest = key.partition("/")[2]
    name = rest.rpartition("/")[2]
    if is_temporary(name):
        rest = rest[: -len(name)] + name.rsplit(".", 2)[0]
    return name in _CLUTTER or bool(_IN_SEGMENT.fullmatch(rest) or ChunkKey.parse(rest))


def scalar_chunks(names: int) -> int:
    """Columns of chunks that so many scalars need."""
    return -(-names // SCALAR_COLUMNS)


def row_arrays(optional: Iterable[str]) -> dict[str, Array]:
    """Arrays with a row for each step, of a segment with these optional ones."""
    return ARRAYS | {name: OPTIONAL[name] for name in optional}


def chunk_keys(index: int, scalars: int, optional: Iterable[str] = ()) -> Iterator[ChunkKey]:
    """Keys of the chunks of one block of rows, in order.

    >>> [str(key) for key in chunk_keys(0, scalars=1)]
    ['sketch/c.0.0.0', 'group_norm2/c.0.0', 'scalars/c.0.0', 'step/c.0', 'flags/c.0']
    """
    for array in row_arrays(optional):
        for column in range(scalar_chunks(scalars) if array == "scalars" else 1):
            yield ChunkKey.of(array, index, column)


def snapshots_in(keys: Iterable[object]) -> int:
    """How many sketches of the parameters a list of chunks holds.

    >>> snapshots_in(["theta/c.0.0.0", "theta_step/c.0", "step/c.0"])
    1
    """
    found = (ChunkKey.parse(str(key)) for key in keys)
    return sum(key is not None and key.array == "theta_step" for key in found)


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


def group_metadata(
    attrs: Mapping[str, object], consolidated: Mapping[str, ArrayMetadata] | None = None
) -> dict[str, object]:
    """Zarr v3 metadata of a group, optionally with its arrays' metadata inline."""
    meta: dict[str, object] = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
    if consolidated is not None:
        meta["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(consolidated),
        }
    return meta


def arrays(run: RunHeader, segment: SegmentHeader) -> dict[str, ArrayMetadata]:
    """Zarr v3 metadata of the arrays of a segment, as both headers imply it.

    With ``shard`` chunks to a file the chunks are those of an unsharded segment, byte for byte, as the inner chunks
    of Zarr's ``sharding_indexed`` codec.
    """
    fixed = {"group": len(run.groups), "k": run.sketch.k}
    shape = {"step": segment.rows, "scalar": len(segment.scalars), "snapshot": segment.snapshots, **fixed}
    chunk = {"step": run.chunk, "scalar": SCALAR_COLUMNS, "snapshot": 1, **fixed}
    found = {}
    for name, array in (row_arrays(segment.optional) | (SNAPSHOTS if segment.snapshots else {})).items():
        meta = _metadata(array, shape, chunk, array.codecs or _SKETCH[run.codec])
        found[name] = _sharded(meta, segment.shard) if segment.shard and name not in SNAPSHOTS else meta
    return found


def chunk_shape(meta: ArrayMetadata) -> list[int]:
    """Shape of the chunks of an array with this metadata."""
    return meta["chunk_grid"]["configuration"]["chunk_shape"]


def chunk_codec(meta: ArrayMetadata) -> str:
    """Codec between the values of a chunk and its checksum, by its array's metadata; "crc32c" for none."""
    return str(meta["codecs"][1]["name"])


def decoded_bytes(meta: ArrayMetadata) -> int:
    """Bytes that a chunk of an array with this metadata decodes to."""
    return math.prod(chunk_shape(meta)) * int(meta["data_type"][-2:]) // 8


def _metadata(array: Array, shape: Mapping[str, int], chunk: Mapping[str, int], codecs: list[Codec]) -> ArrayMetadata:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [shape[dim] for dim in array.dims],
        "data_type": array.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk[dim] for dim in array.dims]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN" if array.dtype.startswith("float") else 0,
        "codecs": codecs,
        "dimension_names": list(array.dims),
        "attributes": {},
    }


def _sharded(meta: ArrayMetadata, shard: int) -> ArrayMetadata:
    inner = chunk_shape(meta)
    codec = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": inner,
            "codecs": meta["codecs"],
            "index_codecs": RAW,
            "index_location": "end",
        },
    }
    return meta | {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [inner[0] * shard, *inner[1:]]}},
        # Another separator than chunks have: shards are written beside them and then take over in one commit.
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [codec],
    }
