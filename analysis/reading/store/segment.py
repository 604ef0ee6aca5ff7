"""A run read through zarr: its header, and its segments.

A segment's shape is taken from the consolidated metadata inside its group metadata, which is the writer's commit
record. Chunks beyond it are not there yet. Chunks missing below it are an error and never fill values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.common import JSON
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.storage import StorePath

from gradlog.analysis.common.recorded import Info
from gradlog.analysis.reading.store import chunks
from gradlog.analysis.reading.store.bounded_stores import Bounded, BoundedFolder
from gradlog.analysis.reading.store.metadata import Metadata, SegmentMetadata
from gradlog.analysis.reading.store.stores import list_all, unbroken
from gradlog.errors import CorruptRunError
from gradlog.format import fields, layout, limits
from gradlog.format import journal as records
from gradlog.format.chain import digest, is_sealed
from gradlog.format.header import UNSETTLED, RunHeader, SegmentHeader
from gradlog.format.journal import Journal, following
from gradlog.format.layout import SNAPSHOTS, row_arrays
from gradlog.format.names import META

if TYPE_CHECKING:
    from gradlog.analysis.reading.store.chunks import Stored

Number = TypeVar("Number", bound=np.generic)


@dataclasses.dataclass
class Segment:
    """One writer's committed rows, plus the rows of its journal that no chunk holds yet.

    Attributes
    ----------
    steps : int64 array (rows,)
    flags : uint32 array (rows,)
    tail : Journal or None
        Journal rows after the committed ones; ``steps`` and ``flags`` have theirs already.
    waiting : sequence of (int, ndarray (group, k))
        Step and sketch of the parameters, of those that no flush has taken yet.
    """

    header: SegmentHeader
    arrays: Mapping[str, Stored]
    run: RunHeader
    where: str
    steps: NDArray[np.int64]
    flags: NDArray[np.uint32]
    tail: Journal | None = None
    waiting: Sequence[tuple[int, NDArray[np.float32]]] = ()
    _whole_norms: bool = False

    @classmethod
    def open(cls, metadata: Metadata, own: SegmentMetadata) -> Segment:
        """Open by its commit record and check every shape against the headers."""
        where, run, name = metadata.where, metadata.header, own.name
        here = f"{where}/{name}"
        owner = records.owner(run.uuid, name)
        journals, waiting = records.read_all(own.journals, owner, len(run.groups), run.sketch.k)
        if not is_sealed(own.record):
            raise CorruptRunError(f"{here}/{META}: its bytes contradict its own digest; run: gradlog audit")
        header, arrays = _read_record(metadata.store, metadata.prefix + name, own.record, run, here)
        if header.name != name:
            raise CorruptRunError(f"{here}/{META}: belongs to {header.name}; run: gradlog audit")
        if header.root != digest(metadata.root):
            raise CorruptRunError(f"{where}/{META}: not the one {name} was recorded under; run: gradlog audit")
        segment = cls(header, arrays, run, here, np.empty(0, np.int64), np.empty(0, np.uint32))
        segment.require_chunks("step", "flags")  # before any is read: rows that are only declared cost nothing
        with unbroken(f"{here}/step"):
            segment.steps = _joined(_increasing(chunks.pieces(arrays["step"]), here), segment.steps)
        with unbroken(f"{here}/flags"):
            segment.flags = _joined(chunks.pieces(arrays["flags"]), segment.flags)
        if header.status in UNSETTLED:
            segment._overlay(journals)
            coming = range(header.snapshots, header.snapshots + len(waiting))
            segment.waiting = [waiting[number] for number in coming if number in waiting]
        if (segment.steps[1:] <= segment.steps[:-1]).any():
            raise CorruptRunError(f"{here}: step numbers do not increase")
        return segment

    def _overlay(self, journals: Mapping[int, Journal]) -> None:
        for journal, fault in following(journals, self.header.rows, self.run.chunk):
            if fault:
                raise CorruptRunError(f"{self.where}/{fault}; run: gradlog audit")
            self.tail = journal if self.tail is None else _join(self.tail, journal)
            self.steps, self.flags = np.append(self.steps, journal.step), np.append(self.flags, journal.flags)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def committed(self) -> int:
        """Rows that chunks hold."""
        return self.header.rows

    @property
    def info(self) -> Info:
        """What is known of it without reading rows; plain values that json can write."""
        h = self.header
        return {
            "name": h.name,
            "number": h.number,
            "rank": h.rank,
            "rows": len(self),
            "committed": h.rows,
            "first_step": int(self.steps[0]) if len(self) else None,
            "last_step": int(self.steps[-1]) if len(self) else None,
            "status": h.status,
            "reason": h.reason,
            "parent": h.parent,
            "parent_step": h.parent_step,
            "opened": h.opened,
            "closed": h.closed,
            "dropped": [list(x) for x in h.dropped],
            **({"fold": fold[:80]} if isinstance(fold := h.process.get("fold"), str) else {}),
            **({"loss": "backward"} if h.process.get("loss") == "backward" else {}),
        }

    @cached_property
    def storage(self) -> dict[str, dict[str, int]]:
        """Stored bytes and chunk files of each array."""
        found = {}
        for name in row_arrays(self.header.optional):
            array = self._array(name)
            size, files = chunks.stored(array) or (int(array.nbytes_stored()), _files(array)[0])
            found[name] = {"bytes": size, "files": files}
        return found

    def require_chunks(self, *names: str) -> None:
        """Refuse arrays with a chunk that is not there: it would read as fill values."""
        for name in names:
            there, needed = _files(self._array(name))
            if there < needed:
                raise CorruptRunError(
                    f"{self.where}/{name}: {needed - there} of {needed} chunk files are missing; run: gradlog audit"
                )

    def read_rows(self, start: int, stop: int, out: NDArray[np.float32], name: str = "sketch") -> None:
        """Read local rows [start, stop) of an array of sketches into ``out`` (stop - start, group, k), C order.

        Updates are NaN where none were kept.
        """
        cut = min(stop, self.committed)
        if name not in self.arrays:
            out[:] = np.nan
            return
        if start < cut:
            array, wanted = self._array(name), out[: cut - start]
            with unbroken(f"{self.where}/{name}"):
                if self.run.codec != "raw" or not chunks.read_raw(array, start, cut, wanted):
                    buffer = default_buffer_prototype().nd_buffer.from_numpy_array(wanted)
                    array.get_basic_selection((slice(start, cut),), out=buffer)
        if cut < stop and self.tail is not None:
            low = max(start, self.committed) - self.committed
            late = self.tail.sketch if name == "sketch" else self.tail.optional.get(name)
            out[max(cut - start, 0) :] = np.nan if late is None else late[low : stop - self.committed]

    @cached_property
    def snapshot_steps(self) -> NDArray[np.int64]:
        """Steps before which the parameters were sketched."""
        late = np.array([step for step, _ in self.waiting], np.int64)
        if not self.header.snapshots:
            return late
        self.require_chunks(*SNAPSHOTS)
        with unbroken(f"{self.where}/theta_step"):
            return np.append(np.asarray(self._array("theta_step")[:], np.int64), late)

    @cached_property
    def snapshots(self) -> NDArray[np.float32]:
        """Sketches of the parameters, (snapshot, group, k)."""
        shape = (-1, len(self.run.groups), self.run.sketch.k)
        late = np.array([theta for _, theta in self.waiting], np.float32).reshape(shape)
        if not self.header.snapshots:
            return late
        self.require_chunks(*SNAPSHOTS)
        with unbroken(f"{self.where}/theta"):
            return np.concatenate([np.asarray(self._array("theta")[:], np.float32), late])

    @cached_property
    def norm2(self) -> NDArray[np.float64]:
        """Exact squared norms (rows, group)."""
        return self.norms(0, len(self))

    def norms(self, start: int, stop: int) -> NDArray[np.float64]:
        """Exact squared norms of local rows [start, stop)."""
        if not self._whole_norms:
            self.require_chunks("group_norm2")
            self._whole_norms = True
        with unbroken(f"{self.where}/group_norm2"):
            values = np.asarray(chunks.read(self._array("group_norm2"), *self._stored(start, stop)), np.float64)
        return values if self.tail is None else np.concatenate([values, self.tail.norm2[self._late(start, stop)]])

    @property
    def scalar_names(self) -> list[str]:
        """Names of the scalars that chunks or the journal hold."""
        return list(dict.fromkeys([*self.header.scalars, *(self.tail.names if self.tail else ())]))

    @cached_property
    def scalars(self) -> dict[str, NDArray[np.float64]]:
        """Logged scalars by name, each (rows,), NaN where not logged."""
        names = self.scalar_names
        return dict(zip(names, self.logged(0, len(self), names).T, strict=True))

    def logged(self, start: int, stop: int, names: Sequence[str]) -> NDArray[np.float64]:
        """Scalars of local rows [start, stop), (rows, names), NaN where not logged."""
        out = np.full((stop - start, len(names)), np.nan)
        low, high = self._stored(start, stop)
        known = {name: i for i, name in enumerate(self.header.scalars)}
        if low < high and known.keys() & set(names):
            with unbroken(f"{self.where}/scalars"):
                table = chunks.read(self._array("scalars"), low, high)
            for i, name in enumerate(names):
                if name in known:
                    out[: high - low, i] = table[:, known[name]]
        if self.tail is not None:
            late = self.tail.scalars[self._late(start, stop)]
            for i, name in enumerate(names):
                if name in self.tail.names:
                    out[high - low :, i] = late[:, self.tail.names.index(name)]
        return out

    def _stored(self, start: int, stop: int) -> tuple[int, int]:
        """Those of local rows [start, stop) that chunks hold."""
        return min(start, self.committed), min(stop, self.committed)

    def _late(self, start: int, stop: int) -> slice:
        """Likewise those of the journal, as places in it."""
        return slice(max(start - self.committed, 0), max(stop - self.committed, 0))

    def _array(self, name: str) -> Stored:
        return self.arrays[name]


def stored(segments: Sequence[Segment]) -> dict[str, dict[str, int]]:
    """Add up stored bytes and chunk files of each array over segments."""
    optional = dict.fromkeys(name for segment in segments for name in segment.header.optional)
    totals = {name: {"bytes": 0, "files": 0} for name in row_arrays(optional)}
    for segment in segments:
        for name, found in segment.storage.items():
            for key, value in found.items():
                totals[name][key] += value
    return totals


def snapshots(segments: Sequence[Segment]) -> dict[int, NDArray[np.float32]]:
    """Sketches of the parameters by the step before which they were taken, in order; the newest of each step."""
    found = {
        int(step): theta
        for segment in segments
        for step, theta in zip(segment.snapshot_steps, segment.snapshots, strict=True)
    }
    return dict(sorted(found.items()))


def _join(first: Journal, second: Journal) -> Journal:
    names = list(dict.fromkeys([*first.names, *second.names]))
    parts = [(j, [names.index(name) for name in j.names]) for j in (first, second)]
    scalars = np.full((len(first) + len(second), len(names)), np.nan)
    for (j, places), rows in zip(parts, (slice(len(first)), slice(len(first), None)), strict=True):
        scalars[rows, places] = j.scalars
    return dataclasses.replace(
        second,
        step=np.concatenate([first.step, second.step]),
        flags=np.concatenate([first.flags, second.flags]),
        norm2=np.concatenate([first.norm2, second.norm2]),
        sketch=np.concatenate([first.sketch, second.sketch]),
        scalars=scalars,
        names=names,
        chunk=first.chunk,
        optional={
            name: np.concatenate([j.optional.get(name, np.full_like(j.sketch, np.nan)) for j in (first, second)])
            for name in first.optional | second.optional
        },
    )


def _increasing(parts: Iterable[NDArray[np.generic]], where: str) -> Iterator[NDArray[np.int64]]:
    """Step numbers block by block, as long as they increase."""
    last = -(2**62)
    for part in parts:
        block = np.asarray(part, np.int64)
        if len(block) and not (last < block[0] and block[-1] < 2**62 and (block[1:] > block[:-1]).all()):
            raise CorruptRunError(f"{where}: step numbers do not increase")
        last = int(block[-1]) if len(block) else last
        yield block


def _joined(parts: Iterable[NDArray[np.generic]], like: NDArray[Number]) -> NDArray[Number]:
    return np.concatenate([like, *parts], dtype=like.dtype)


def _files(array: Stored) -> tuple[int, int]:
    """Chunk files (of a compacted run: shard files) that are there, and that the shape needs."""
    if (found := chunks.stored(array)) is not None:
        return found[1], array.nchunks
    file = array.shards or array.chunks
    grid = [-(-s // f) for s, f in zip(array.shape, file, strict=True)]
    folder = array.store_path.path + "/"
    names = [key.removeprefix(folder) for key in list_all(array.store_path.store, folder)]
    return sum(chunks.is_chunk(name, grid, bool(array.shards)) for name in names), math.prod(grid)


def _read_record(
    store: Store, path: str, record: bytes, run: RunHeader, where: str
) -> tuple[SegmentHeader, dict[str, Stored]]:
    """Header in a segment's commit record, and its arrays as the headers imply them: the record must say the same."""
    document = limits.parse_object(record, f"{where}/{META}")
    header = SegmentHeader.from_attrs(fields.mapping(document.get("attributes", {}), "attributes"), where)
    header.require_bounds(run, where)
    try:
        told = document["consolidated_metadata"]["metadata"]
    except (KeyError, TypeError) as error:
        raise CorruptRunError(f"{where}/{META}: carries no metadata of arrays") from error
    implied = layout.arrays(run, header)
    for name, meta in implied.items():
        found = told.get(name) if isinstance(told, dict) else None
        if found != meta:
            shape = found.get("shape") if isinstance(found, dict) else None
            raise CorruptRunError(
                f"{where}/{name}: the headers imply another array, of shape {meta['shape']}, than the metadata in "
                f"{META}, of shape {fields.shown(shape)}"
            )
    if isinstance(store, Bounded):
        store.expect(run, header)
    if isinstance(store, BoundedFolder):
        store.require_plain(path)
    arrays = {}
    for name, meta in implied.items():
        metadata = ArrayV3Metadata.from_dict(cast(dict[str, JSON], meta))
        arrays[name] = zarr.Array(zarr.AsyncArray(metadata, StorePath(store, f"{path}/{name}")))
    return header, arrays


def joined(segments: Sequence[Segment]) -> list[Info]:
    """Parameters that came after a run began: step of the first row that includes them, and their names."""
    known: set[str] = set()
    found = []
    for segment in segments:
        names = [t.name for t in segment.header.joined if t.name not in known]
        known.update(names)
        if names and len(segment):
            found.append({"step": int(segment.steps[0]), "names": names})
    return found
