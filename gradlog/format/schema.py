"""Format 1 of a run on disk: names, dimensions, dtypes, and the two attribute records.

Pure: no file is touched here. The recorder writes what this module describes, the analyzer reads it, and
nothing else is shared between the two halves but the errors, the journal's record layout and the sketch.
``docs/format.md`` describes the same for a second implementation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

from gradlog.errors import CorruptRunError, NewerFormatError
from gradlog.format import fields, limits
from gradlog.format.fields import shown, text, whole_number

FORMAT = (1, 0)
ROOT_KEY = "gradlog"
SEGMENT_KEY = "gradlog_segment"
META = "zarr.json"
MANIFEST = "manifest/{:06d}.json"
MANIFESTS = "manifest/all.jsonl"
JOURNAL = ".journal-{:06d}"
WAITING = ".theta-{:06d}.partial"
TORN = ".torn-"
PARTIAL_FILE = ".partial"
SEGMENT = "seg-{number:06d}-r{rank:04d}"
SEGMENT_PATTERN = re.compile(r"seg-(\d{6})-r(\d{4})")
JOURNAL_PATTERN = re.compile(r"\.journal-(\d{6})")
WAITING_PATTERN = re.compile(r"\.theta-(\d{6})\.partial")

UNSETTLED = ("recording", "failed")
"""States of a segment in which journals may hold rows beyond its chunks, and sketches of parameters wait."""

NO_CHECK = "0" * 64
_CHECK = b'"check":"%s"'

SCALAR_COLUMNS = 16
"""Scalars are chunked in columns of 16, so that a name first seen at a late step needs no rewrite."""

WIDENED_GAP = "some of these steps: "
"""Beginning of the reason of a gap that stands for several: recorded steps lie between them."""

NONFINITE, SKIPPED, PARTIAL = 1, 2, 4
"""Bits of ``flags``: NaN or inf in the gradient; the optimizer skipped this step; some tensors had no gradient."""

STAGES = ("consumed", "preclip", "local")
"""What "the gradient at a step" means: as the optimizer consumed it, before clipping, or one rank's own."""

CODECS = ("raw", "bitshuffle-zstd")
"""How ``sketch`` chunks are encoded. Random floats barely compress, so raw is the default."""

HALF_NORM2 = "half_norm2:{}"
HALF_PATTERN = re.compile(r"half_norm2:\d+")
"""Scalars of a row whose batch was recorded in two halves: for each group, by its number, the squared norm of half the
difference of their gradients."""

SNAPSHOTS = ("theta", "theta_step")
"""Arrays of a segment that hold sketches of the parameters."""

FULL_BITS = 23
"""Mantissa bits of a float32."""

MOST_ROWS, MOST_EVERY, MOST_RANK = 2**20, 2**40, 9_999
"""The most of ``chunk``, ``every`` and ``rank`` that a run may have."""

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


@dataclasses.dataclass(frozen=True)
class SketchSpec:
    """All that is needed to regenerate the random map.

    Attributes
    ----------
    kind : str
        ``"fold-hash/1"`` or ``"exact/1"``.
    k : int
        Coordinates a group. In exact mode the size of the largest group; shorter ones end in zeros.
    m : int
        Length of the folded vector (0 in exact mode).
    seed : int
        Seed of the map (0 in exact mode).
    """

    kind: str
    k: int
    m: int
    seed: int

    @property
    def exact(self) -> bool:
        """Whether rows are the gradient's own coordinates."""
        return self.kind == "exact/1"


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """One parameter tensor: canonical name, shape, dtype name, and the index of its group."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    group: int

    @property
    def size(self) -> int:
        """Number of real coordinates (a complex entry counts two)."""
        n = 2 if self.dtype.startswith("complex") else 1
        for s in self.shape:
            n *= s
        return n


@dataclasses.dataclass(frozen=True)
class RunHeader:
    """What is fixed for the whole run: the ``gradlog`` attribute of the root group.

    ``chunk`` is the number of rows a chunk of every array of every segment holds; ``codec`` and ``sketch_bits`` say
    how sketches are encoded and to how many mantissa bits they were rounded.
    """

    sketch: SketchSpec
    groups: tuple[str, ...]
    tensors: tuple[TensorInfo, ...]
    chunk: int
    codec: str = "raw"
    sketch_bits: int = FULL_BITS
    stage: str = "consumed"
    what: str = "gradient"
    every: int = 1
    created: str = ""
    uuid: str = ""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    format: tuple[int, int] = FORMAT

    @property
    def n(self) -> int:
        """Columns of the stacked sketch, groups x k."""
        return len(self.groups) * self.sketch.k

    @property
    def dimension(self) -> int:
        """Coordinates of the full gradient."""
        return sum(t.size for t in self.tensors)

    def group_sizes(self) -> tuple[int, ...]:
        """Coordinates of the full gradient in each group, in group order."""
        sizes = [0] * len(self.groups)
        for t in self.tensors:
            sizes[t.group] += t.size
        return tuple(sizes)

    def to_attrs(self) -> dict[str, Any]:
        """Attributes of the run's root group."""
        d = dataclasses.asdict(self)
        d["format"] = "{}.{}".format(*self.format)
        return {ROOT_KEY: d}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any], where: str = "run") -> RunHeader:
        """Read the root attributes.

        Raises
        ------
        NewerFormatError
            The major format version is above the one of this library.
        CorruptRunError
            A field is missing or of the wrong kind.
        """
        d = attrs.get(ROOT_KEY)
        if not isinstance(d, Mapping):
            raise CorruptRunError(f"{where}: root attributes carry no '{ROOT_KEY}' object")
        version = _version(d.get("format"), where)
        try:
            sketch = {field: d["sketch"][field] for field in ("kind", "k", "m", "seed")}
            header = cls(
                sketch=SketchSpec(**sketch),
                groups=fields.names(d["groups"], 2**20, "groups"),
                tensors=_tensors(d["tensors"], "tensors"),
                chunk=whole_number(d["chunk"], 1, MOST_ROWS, "chunk"),
                codec=text(d["codec"], "codec"),
                sketch_bits=whole_number(d["sketch_bits"], 1, FULL_BITS, "sketch_bits"),
                stage=text(d["stage"], "stage"),
                what=text(d["what"], "what"),
                every=whole_number(d["every"], 1, MOST_EVERY, "every"),
                created=text(d.get("created", ""), "created"),
                uuid=text(d.get("uuid", ""), "uuid"),
                provenance=fields.provenance(d.get("provenance", {})),
                format=version,
            )
            header.require_bounds()
        except KeyError as error:
            raise CorruptRunError(f"{where}: header field {error} is missing") from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CorruptRunError(f"{where}: bad header field: {error}") from error
        return header

    def require_bounds(self) -> None:
        """Refuse a header that declares more than any reader should spend.

        Raises
        ------
        ValueError
            A value is out of bounds, or a chunk or the gradient would be too large.
        """
        s = self.sketch
        whole_number(s.k, 1, 2**31, "sketch.k")
        whole_number(s.m, 0, limits.FOLDED, "sketch.m, to which the sketch folds,")
        if type(s.seed) is not int:
            raise ValueError(f"sketch.seed must be a whole number, got {shown(s.seed)}")
        text(s.kind, "sketch.kind")
        if s.k > s.m and s.kind.startswith("fold-hash/"):
            raise ValueError(f"sketch.k must be at most sketch.m, which is {s.m:,}, got {s.k:,}")
        if self.codec not in CODECS:
            raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {shown(self.codec)}")
        if not re.fullmatch(r"[0-9A-Za-z_-]{0,64}", self.uuid):  # it names a folder of the spool
            raise ValueError(f"uuid must be letters and digits, got {shown(self.uuid)}")
        if not self.groups:
            raise ValueError("groups must name at least one")
        odd = next((t for t in self.tensors if t.group >= len(self.groups)), None)
        if odd is not None:
            raise ValueError(f"tensor {shown(odd.name)} is of group {odd.group}, there are {len(self.groups)}")
        if self.chunk > most_rows(len(self.groups), s.k):
            raise ValueError(
                f"a chunk of {self.chunk:,} rows of {len(self.groups):,} groups x {s.k:,} numbers would take "
                f"{self.chunk * row_bytes(len(self.groups), s.k):,} bytes of memory, at most {limits.CHUNK:,} are taken"
            )
        if self.dimension > 2**60 or (not s.exact and self.dimension > 2**27 * max(s.m, 1)):
            raise ValueError(f"{shown(self.dimension)} coordinates are more than any model has")

    def frames(self) -> dict[str, tuple[str, int]]:
        """Codec of each array's chunks, and the bytes that they decode to."""
        arrays = segment_arrays(self, 1, 1) | snapshot_arrays(self, 1)
        return {name: (meta["codecs"][1]["name"], decoded_bytes(meta)) for name, meta in arrays.items()}

    @property
    def largest_file(self) -> int:
        """Bytes that any file of the run but its metadata may have."""
        return max(limits.FILE, *(size + size // 64 + 4096 for _, size in self.frames().values()))


@dataclasses.dataclass(frozen=True)
class SegmentHeader:
    """One writer's lifetime: the ``gradlog_segment`` attribute of a segment group.

    ``rows`` is the committed length, ``root`` the digest of the root's metadata file, ``head`` that of the newest
    manifest (before the first: ``root``), ``dropped`` the step intervals [first, last, reason] that were not kept.
    ``shard`` is the number of chunks in each shard of a compacted segment, 0 for one file a chunk.
    ``joined`` are parameter tensors that came after the run's header was written and that rows of this segment include;
    before, they had no gradient. ``snapshots`` counts sketches of the parameters themselves. Both fields are left out
    where there are none.
    ``check`` is the digest of the segment's own metadata file, taken with 64 zeros in its place.
    """

    number: int = 0
    rank: int = 0
    parent: str | None = None
    parent_step: int | None = None
    scalars: tuple[str, ...] = ()
    rows: int = 0
    flushes: int = 0
    root: str = ""
    head: str = ""
    status: str = "recording"  # | "closed" | "failed" | "recovered"
    reason: str = ""
    opened: str = ""
    closed: str = ""
    dropped: tuple[tuple[int, int, str], ...] = ()
    process: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shard: int = 0
    joined: tuple[TensorInfo, ...] = ()
    snapshots: int = 0
    check: str = NO_CHECK

    @property
    def name(self) -> str:
        """Folder of the segment inside the run."""
        return SEGMENT.format(number=self.number, rank=self.rank)

    def to_attrs(self) -> dict[str, Any]:
        """Attributes of the segment group."""
        d = dataclasses.asdict(self)
        return {SEGMENT_KEY: {key: d[key] for key in d if d[key] or key not in ("joined", "snapshots")}}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any], where: str = "segment") -> SegmentHeader:
        """Read a segment's attributes; unknown fields of newer minor versions are ignored.

        Raises
        ------
        CorruptRunError
            A field is missing or of the wrong kind.
        """
        d = attrs.get(SEGMENT_KEY)
        if not isinstance(d, Mapping):
            raise CorruptRunError(f"{where}: attributes carry no '{SEGMENT_KEY}' object")
        known = {f.name for f in dataclasses.fields(cls)}
        try:
            found = {k: v for k, v in d.items() if k in known}
            found["scalars"] = fields.names(found.get("scalars", ()), limits.COLUMNS, "scalars")
            found["joined"] = _tensors(found.get("joined", ()), "joined")
            found["dropped"] = fields.dropped(found.get("dropped", ()))
            found["process"] = fields.mapping(found.get("process", {}), "process")
            for key, most in _COUNTS.items():
                found[key] = whole_number(found.get(key, 0), 0, most, key)
            for key in _TEXTS & found.keys():
                text(found[key], key)
            if found.get("parent") is not None:
                text(found["parent"], "parent")
            if found.get("parent_step") is not None:
                fields.step(found["parent_step"], "parent_step")
            return cls(**found)
        except KeyError as error:
            raise CorruptRunError(f"{where}: segment field {error} is missing") from error
        except (TypeError, ValueError) as error:
            raise CorruptRunError(f"{where}: bad segment field: {error}") from error

    def require_bounds(self, run: RunHeader, where: str) -> None:
        """Refuse what contradicts the run's header, or itself, before anything is read or made for it.

        Raises
        ------
        CorruptRunError
            More flushes than wrote something or fewer than the rows need, shards of more chunks than there are, or a
            parameter of a group that is not there.
        """
        chunks = -(-self.rows // run.chunk)
        if self.flushes and not chunks <= self.flushes <= chunks + self.snapshots:  # 0: rows without manifests
            raise CorruptRunError(
                f"{where}: {self.flushes:,} flushes, {self.rows:,} rows in chunks of {run.chunk:,} and "
                f"{self.snapshots:,} snapshots need {chunks:,} to {chunks + self.snapshots:,}"
            )
        if self.shard > max(chunks, 1):
            raise CorruptRunError(f"{where}: shards of {self.shard:,} chunks, the segment has {chunks:,}")
        if any(t.group >= len(run.groups) for t in self.joined):
            raise CorruptRunError(f"{where}: a tensor that joined is of a group that the run does not have")


_COUNTS = {"number": 999_999, "rank": MOST_RANK, "rows": 2**48, "flushes": 2**40, "shard": 2**24, "snapshots": 2**40}
"""The most of each count of a segment."""

_TEXTS = {"root", "head", "status", "reason", "opened", "closed", "check"}


def _tensors(values: Any, what: str) -> tuple[TensorInfo, ...]:
    found = []
    for value in fields.sequence(values, what):
        shape = fields.sequence(value["shape"], "the shape of a tensor", 64)
        sizes = tuple(shape)
        if not all(type(size) is int and 0 <= size <= 2**60 for size in sizes):
            raise ValueError(f"the sizes of a tensor must be whole numbers from 0 to 2^60, got {shown(shape)}")
        group = whole_number(value["group"], 0, 2**20, "the group of a tensor")
        found.append(TensorInfo(text(value["name"], "name"), sizes, text(value["dtype"], "dtype"), group))
    return tuple(found)


def _version(text: Any, where: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})\.(\d{1,6})", text) if isinstance(text, str) else None
    if match is None:
        raise CorruptRunError(f"{where}: format version {text!r} is not of the form '1.0'")
    major, minor = int(match[1]), int(match[2])
    if major > FORMAT[0]:
        raise NewerFormatError(
            f"{where}: written in format {major}.{minor}, this gradlog reads up to {FORMAT[0]}.x; "
            "upgrade with: pip install -U gradlog-zarr"
        )
    return major, minor


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
