"""The two attribute records of a run: what is fixed for all of it, and what one writer did.

Pure: no file is touched here. ``docs/format.md`` describes the same for a second implementation.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from gradlog.errors import CorruptRunError, NewerFormatError
from gradlog.format import fields, limits
from gradlog.format.chain import NO_CHECK
from gradlog.format.fields import shown, text, whole_number
from gradlog.format.layout import MOST_ROWS, OPTIONAL, arrays, chunk_codec, decoded_bytes, most_rows, row_bytes
from gradlog.format.names import SEGMENT

FORMAT = (1, 0)
ROOT_KEY = "gradlog"
SEGMENT_KEY = "gradlog_segment"

OPEN_WITH = 'a gradlog run: xarray.open_dataset(PATH, engine="gradlog"), or gradlog.analysis.open_run(PATH)'
"""Attribute ``open_with`` of the root, for those who open it as plain zarr: there it has no arrays of its own."""

UNSETTLED = ("recording", "failed")
"""States of a segment in which journals may hold rows beyond its chunks, and sketches of parameters wait."""

WIDENED_GAP = "some of these steps: "
"""Beginning of the reason of a gap that stands for several: recorded steps lie between them."""

NONFINITE, SKIPPED, PARTIAL = 1, 2, 4
"""Bits of ``flags``: NaN or inf in the gradient; the optimizer skipped this step; some tensors had no gradient."""

STAGES = ("consumed", "preclip", "local")
"""What "the gradient at a step" means: as the optimizer consumed it, before clipping, or one rank's own."""

CODECS = ("raw", "bitshuffle-zstd")
"""How ``sketch`` chunks are encoded. Random floats barely compress, so raw is the default."""

FULL_BITS = 23
"""Mantissa bits of a float32."""

MOST_EVERY, MOST_RANK = 2**40, 9_999
"""The most of ``every`` and ``rank`` that a run may have."""


@dataclasses.dataclass(frozen=True)
class SketchSpec:
    """All that is needed to regenerate the random map.

    Attributes
    ----------
    kind : str
        ``"fold-hash/1"``, ``"fold-hash/2"`` or ``"exact/1"``.
    k : int
        Coordinates per group. In exact mode the size of the largest group; shorter ones end in zeros.
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
    """One parameter tensor: canonical name, shape, dtype name, and the index of its group.

    ``place``: where it begins in the folded vector, as the map ``fold-hash/2`` has it for tensors of small groups.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    group: int
    place: int | None = None

    @property
    def size(self) -> int:
        """Number of real coordinates (a complex entry counts two)."""
        n = 2 if self.dtype.startswith("complex") else 1
        for s in self.shape:
            n *= s
        return n

    def to_attrs(self) -> dict[str, object]:
        """Return the tensor as it stands in a header."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


@dataclasses.dataclass(frozen=True)
class RunHeader:
    """What is fixed for the whole run: the ``gradlog`` attribute of the root group.

    ``chunk`` is the number of rows per chunk, in every array of every segment. ``codec`` and ``sketch_bits`` say how
    sketches are encoded and to how many mantissa bits they were rounded.
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
    provenance: Mapping[str, object] = dataclasses.field(default_factory=dict)
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

    def with_joined(self, segments: Iterable[SegmentHeader]) -> RunHeader:
        """Header with the tensors that joined in these segments among its own."""
        known = {t.name: t for t in self.tensors}
        for segment in segments:
            known |= {t.name: t for t in segment.joined if t.name not in known}
        return dataclasses.replace(self, tensors=tuple(known.values()))

    def to_attrs(self) -> dict[str, object]:
        """Attributes of the run's root group."""
        d = dataclasses.asdict(self)
        d["format"] = "{}.{}".format(*self.format)
        d["tensors"] = [t.to_attrs() for t in self.tensors]
        return {"open_with": OPEN_WITH, ROOT_KEY: d}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, object], where: str = "run") -> RunHeader:
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
        if any(t.place is not None and t.place + t.size > s.m for t in self.tensors):
            raise ValueError(f"a tensor with a place must end within sketch.m, which is {s.m:,}")
        if self.chunk > most_rows(len(self.groups), s.k):
            raise ValueError(
                f"a chunk of {self.chunk:,} rows of {len(self.groups):,} groups x {s.k:,} numbers would take "
                f"{self.chunk * row_bytes(len(self.groups), s.k):,} bytes of memory, at most {limits.CHUNK:,} are taken"
            )
        if self.dimension > 2**60 or (not s.exact and self.dimension > 2**27 * max(s.m, 1)):
            raise ValueError(f"{shown(self.dimension)} coordinates are more than any model has")

    def frames(self) -> dict[str, tuple[str, int]]:
        """Codec of each array's chunks, and the bytes that they decode to."""
        every = arrays(self, SegmentHeader(rows=1, scalars=("loss",), snapshots=1, optional=tuple(OPTIONAL)))
        return {name: (chunk_codec(meta), decoded_bytes(meta)) for name, meta in every.items()}

    @property
    def largest_file(self) -> int:
        """Bytes that any file of the run but its metadata may have."""
        return max(limits.FILE, *(limits.most_stored(size) for _, size in self.frames().values()))


@dataclasses.dataclass(frozen=True)
class SegmentHeader:
    """One writer's lifetime: the ``gradlog_segment`` attribute of a segment group.

    ``rows`` is the committed length, ``root`` the digest of the root's metadata file, ``head`` that of the newest
    manifest (before the first: ``root``), ``dropped`` the step intervals [first, last, reason] that were not kept.
    ``shard`` is the number of chunks in each shard of a compacted segment, 0 for one file per chunk.
    ``joined`` are parameter tensors that came after the run's header was written and that rows of this segment include;
    before, they had no gradient. ``snapshots`` counts sketches of the parameters themselves. Both are left out where
    there are none. ``optional`` are names of :data:`~gradlog.format.layout.OPTIONAL` arrays; in the file each is a
    field that is true.
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
    process: Mapping[str, object] = dataclasses.field(default_factory=dict)
    shard: int = 0
    joined: tuple[TensorInfo, ...] = ()
    snapshots: int = 0
    optional: tuple[str, ...] = ()
    check: str = NO_CHECK

    @property
    def name(self) -> str:
        """Folder of the segment inside the run."""
        return SEGMENT.format(number=self.number, rank=self.rank)

    def to_attrs(self) -> dict[str, object]:
        """Attributes of the segment group."""
        d = dataclasses.asdict(self)
        d["joined"] = [t.to_attrs() for t in self.joined]
        d |= dict.fromkeys(d.pop("optional"), True)
        return {SEGMENT_KEY: {key: d[key] for key in d if d[key] or key not in ("joined", "snapshots")}}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, object], where: str = "segment") -> SegmentHeader:
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
            found["optional"] = tuple(name for name in OPTIONAL if fields.truth(d.get(name, False), name))
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


def attributes(metadata: bytes | memoryview, where: str) -> limits.Document:
    """Attributes in the metadata file of a group; CorruptRunError where that is no JSON object of bounded size."""
    found = limits.parse_object(metadata, where).get("attributes")
    return found if isinstance(found, dict) else {}


_COUNTS = {"number": 999_999, "rank": MOST_RANK, "rows": 2**48, "flushes": 2**40, "shard": 2**24, "snapshots": 2**40}
"""The most of each count of a segment."""

_TEXTS = {"root", "head", "status", "reason", "opened", "closed", "check"}


def _tensors(values: object, what: str) -> tuple[TensorInfo, ...]:
    found = []
    for value in fields.sequence(values, what):
        tensor = fields.mapping(value, "a tensor")
        shape = fields.sequence(tensor["shape"], "the shape of a tensor", 64)
        sizes = tuple(size for size in shape if type(size) is int and 0 <= size <= 2**60)
        if len(sizes) < len(shape):
            raise ValueError(f"the sizes of a tensor must be whole numbers from 0 to 2^60, got {shown(shape)}")
        group = whole_number(tensor["group"], 0, 2**20, "the group of a tensor")
        place = tensor.get("place")
        if place is not None:
            place = whole_number(place, 0, limits.FOLDED, "the place of a tensor")
        found.append(TensorInfo(text(tensor["name"], "name"), sizes, text(tensor["dtype"], "dtype"), group, place))
    return tuple(found)


def _version(text: object, where: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})\.(\d{1,6})", text) if isinstance(text, str) else None
    if match is None:
        raise CorruptRunError(f"{where}: format version {shown(text)} is not of the form '1.0'")
    major, minor = int(match[1]), int(match[2])
    if major > FORMAT[0]:
        raise NewerFormatError(
            f"{where}: written in format {major}.{minor}, this gradlog reads up to {FORMAT[0]}.x; "
            "upgrade with: pip install -U gradlog-zarr"
        )
    return major, minor
