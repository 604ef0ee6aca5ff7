"""The only writer of the Zarr store: commits one block of rows at a time, in an order that readers can trust.

Chunk files, then the manifest, then each array's metadata, then the segment's ``zarr.json``, whose
consolidated shapes are the commit. At every instant a reader finds either the old prefix or the new one;
what a crash leaves behind is at most files that nothing refers to. This does not use zarr's own append,
because that publishes a shape before the data, and because the digest of every chunk goes into a manifest. The tests
read everything back through zarr.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog.errors import CorruptRunError, NotARunError, SpecMismatchError
from gradlog.format import limits
from gradlog.format.chain import NO_CHECK, digest, is_sealed, manifest_reader, seal
from gradlog.format.codec import Buffers, Numbers, encode
from gradlog.format.header import RunHeader, SegmentHeader, attributes
from gradlog.format.layout import SCALAR_COLUMNS, ChunkKey, arrays, chunk_keys, group_metadata
from gradlog.format.names import MANIFEST, META, PARTIAL_FILE, SEGMENT_PATTERN
from gradlog.storage.block import Block
from gradlog.storage.sink import Sink

Gaps = tuple[tuple[int, int, str], ...]
"""Intervals of steps that were not kept: first, last, why."""

Snapshots = Sequence[tuple[int, NDArray[np.float32]]]
"""Step and sketch (G, k) of the parameters as they were before it."""


def now() -> str:
    """UTC time in ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def root_metadata(header: RunHeader) -> bytes:
    """Bytes of the root's metadata, which are read back before anybody writes them.

    Raises
    ------
    ValueError
        Readers would refuse the run: it has too many groups or tensors, or too wide rows, names or notes.
    """
    data = _json(group_metadata(header.to_attrs()))
    try:
        RunHeader.from_attrs(attributes(data, f"header: {META}"), "header")
    except CorruptRunError as error:
        raise ValueError(f"no reader would take this run, so it is not recorded ({error})") from error
    return data


def create_root(sink: Sink, header: RunHeader) -> tuple[RunHeader, bytes]:
    """Write the root's metadata unless it is there; return what is there now, parsed and as bytes."""
    data = root_metadata(header)
    if sink.create(META, [data]):
        return header, data
    return read_root(sink)


def read_root(sink: Sink) -> tuple[RunHeader, bytes]:
    """Header of the run in ``sink``, and the bytes that hold it.

    Raises
    ------
    NotARunError
        There is no run.
    CorruptRunError
        Its metadata cannot be read.
    """
    try:
        data = sink.get(META)
    except FileNotFoundError:
        raise NotARunError("no run here: zarr.json is missing") from None
    return RunHeader.from_attrs(attributes(data, f"run: {META}"), "run"), data


def read_segment(sink: Sink, name: str, run: RunHeader | None = None) -> SegmentHeader:
    """Attributes of a segment as last committed; held against the header of the run where that is given.

    Raises
    ------
    CorruptRunError
        They are missing, damaged, malformed, or contradict the run.
    """
    try:
        data = sink.get(f"{name}/{META}")
    except FileNotFoundError:
        raise CorruptRunError(f"{name}: zarr.json is missing") from None
    if not is_sealed(data):
        raise CorruptRunError(f"{name}: the bytes of zarr.json contradict their own digest; run: gradlog audit")
    segment = SegmentHeader.from_attrs(attributes(data, f"{name}: {META}"), name)
    if run is not None:
        segment.require_bounds(run, name)
    return segment


def segment_names(sink: Sink) -> list[tuple[int, int, str]]:
    """List (number, rank, name) of each segment, in order."""
    found = [(SEGMENT_PATTERN.fullmatch(name), name) for name in sink.names()]
    return sorted((int(m[1]), int(m[2]), name) for m, name in found if m and not _unclaimed(sink, name))


def _unclaimed(sink: Sink, name: str) -> bool:
    """Whether a kill came between the making of a segment's folder and its metadata."""
    if sink.local is None or os.path.lexists(sink.local / name / META):
        return False
    return all(key.endswith(PARTIAL_FILE) for key in sink.keys(name))


def manifests(sink: Sink, segment: SegmentHeader) -> Callable[[int], bytes]:
    """Reader of a segment's manifests by number.

    Raises
    ------
    CorruptRunError
        One is missing.
    """

    def get(key: str) -> bytes:
        try:
            return sink.get(f"{segment.name}/{key}")
        except FileNotFoundError as error:
            raise CorruptRunError(f"{segment.name}/{key} is missing; run: gradlog audit") from error

    return manifest_reader(get, segment)


class Commit(NamedTuple):
    """One flush, worked out to the last byte, so that every attempt at it writes the same.

    Attributes
    ----------
    objects : list of (str, Buffers)
        Chunks, then the manifest, by key in the segment.
    after : SegmentHeader
        The segment's state with them.
    """

    objects: list[tuple[str, Buffers]]
    after: SegmentHeader


class SegmentWriter:
    """Commits blocks of one segment.

    Parameters
    ----------
    sink : Sink
        The run's storage.
    header : RunHeader
        What the run fixed.
    segment : SegmentHeader
        State to continue from; ``head`` of a new segment is the digest of the root's metadata.

    Attributes
    ----------
    parent : tuple of int or None
        First and last step of the segment that this one continues, of a new one.
    facts : mapping
        What else is known of the process; the next commit stores it.
    """

    def __init__(self, sink: Sink, header: RunHeader, segment: SegmentHeader) -> None:
        self.sink = sink
        self.header, self._frames = header, header.frames()
        self.segment = segment
        self.parent: tuple[int, int] | None = None
        self.facts: Mapping[str, object] = {}

    def begin(self, step: int) -> None:
        """Name the step of the parent that the first row, of this step, follows: less than its last after a rewind."""
        if self.parent is not None:
            first, last = self.parent
            follows = min(last, step - 1) if step > first else None
            self.segment = dataclasses.replace(self.segment, parent_step=follows)

    def create(self) -> bool:
        """Claim the segment's name; False if another writer has it.

        Raises
        ------
        SpecMismatchError
            Somebody put another run in this one's place meanwhile; the claim is taken back.
        ValueError
            Readers would refuse the segment: too many parameters joined, or they have too long names.
        """
        data = self._metadata(self.segment)
        try:
            limits.require_size("header", len(data), limits.METADATA - 2 * limits.NAMES)  # scalars come to it
            SegmentHeader.from_attrs(attributes(data, f"header: {META}"), "header").require_bounds(
                self.header, "header"
            )
        except CorruptRunError as error:
            raise ValueError(f"no reader would take {self.segment.name}, so it is not recorded ({error})") from error
        if not self.sink.create(f"{self.segment.name}/{META}", [data]):
            return False
        try:
            self._require_root()
        except (SpecMismatchError, FileNotFoundError):
            self.withdraw()
            raise
        return True

    def commit(self, block: Block | None, dropped: Gaps = (), snapshots: Snapshots = ()) -> None:
        """Make the rows of ``block`` and the snapshots readable, as :meth:`prepare` and :meth:`perform` do in turn."""
        if snapshots or (block is not None and block.rows):
            self.perform(self.prepare(block, dropped, snapshots))

    def prepare(self, block: Block | None, dropped: Gaps = (), snapshots: Snapshots = ()) -> Commit:
        """Work out everything that makes rows and snapshots readable, down to the manifest; write nothing.

        The rows are encoded where they lie: ``block`` must stay as it is until the commit is performed.
        """
        s = self.segment
        rows = 0 if block is None else block.rows
        objects = [list(self._snapshot(s.snapshots + i, *taken)) for i, taken in enumerate(snapshots)]
        names, first, steps = list(s.scalars), s.rows, []
        if block is not None and rows:
            if not block.full:
                block.pad()
            names, first = block.names, block.index * self.header.chunk
            steps = [int(block.step[0]), int(block.step[rows - 1])]
            objects.insert(0, list(self._encode(block, len(names))))
        chunks = {}
        for key, data in itertools.chain.from_iterable(objects):
            chunks[key] = {"size": sum(memoryview(piece).nbytes for piece in data), "blake2b": digest(*data)}
        manifest = _json(
            {
                "format": "{}.{}".format(*self.header.format),
                "segment": s.name,
                "flush": s.flushes,
                "rows": [first, first + rows],
                "steps": steps,
                "scalars": names,
                "dropped": [list(gap) for gap in dropped],
                "chunks": chunks,
                "time": now(),
                "prev": s.head,
            }
        )
        after = dataclasses.replace(
            s,
            rows=first + rows,
            flushes=s.flushes + 1,
            head=digest(manifest),
            scalars=tuple(names),
            dropped=dropped,
            snapshots=s.snapshots + len(snapshots),
            process={**s.process, **self.facts},
        )
        objects.append([(MANIFEST.format(s.flushes), [manifest])])
        return Commit(list(itertools.chain.from_iterable(objects)), after)

    def perform(self, commit: Commit) -> None:
        """Write what was prepared. Nothing is ever half-visible, and what failed may be performed again.

        Raises
        ------
        OSError
            As the file system or the store says.
        SpecMismatchError
            Somebody put another run in this one's place.
        """
        self._require_root()
        try:
            for key, data in commit.objects:
                self.sink.put(f"{commit.after.name}/{key}", data)
            self.publish(commit.after)
        except FileNotFoundError:  # replaced just now: say so
            self._require_root()
            raise

    def successor(self) -> str:
        """Name of a later segment of the same rank: another process took the run over. Empty while there is none."""
        for name in self.sink.names():
            match = SEGMENT_PATTERN.fullmatch(name)
            later = match is not None and int(match[2]) == self.segment.rank and int(match[1]) > self.segment.number
            if later and not _unclaimed(self.sink, name):
                return name
        return ""

    def finish(self, status: str, reason: str = "", dropped: Gaps = ()) -> None:
        """Record that this segment gets no more rows, and why. Raises as :meth:`perform` does."""
        self._require_root()
        self.publish(dataclasses.replace(self.segment, status=status, reason=reason, dropped=dropped, closed=now()))

    def publish(self, segment: SegmentHeader) -> None:
        """Commit a new state of the segment: each array's metadata, then its own, with which it counts."""
        for name, meta in arrays(self.header, segment).items():
            self.sink.put(f"{segment.name}/{name}/{META}", [_json(meta)])
        if self.sink.local is None:  # elsewhere a folder that was replaced takes objects as before
            self._require_root()
        self.sink.put(f"{segment.name}/{META}", [self._metadata(segment)])
        self.segment = segment

    def _require_root(self) -> None:
        """Refuse to write into a run that is not the one of the claim; elsewhere, take back what is there of it."""
        try:
            if digest(self.sink.get(META)) == self.segment.root:
                return
        except FileNotFoundError:
            raise FileNotFoundError(f"the run of {self.segment.name} is gone: somebody deleted or moved it") from None
        if self.sink.local is None:
            self.withdraw()
        raise SpecMismatchError(f"the run of {self.segment.name} was replaced by another one while it was recorded")

    def withdraw(self) -> None:
        """Delete this writer's own segment from a run that is another's, unless the name is that run's by now."""
        name = self.segment.name
        try:
            if read_segment(self.sink, name).root != self.segment.root:
                return
        except CorruptRunError:  # no claim: what is there was put after the old run had been cleared away
            pass
        for key in self.sink.keys(name):
            self.sink.discard(key)

    def _metadata(self, segment: SegmentHeader) -> bytes:
        unchecked = dataclasses.replace(segment, check=NO_CHECK)
        return seal(_json(group_metadata(unchecked.to_attrs(), arrays(self.header, segment))))

    def _encode(self, block: Block, scalars: int) -> Iterator[tuple[str, Buffers]]:
        columns = block.columns()
        for key in chunk_keys(block.index, scalars, self.segment.optional):
            values, codec = columns[key.array], self._codec(key.array)
            if key.array == "scalars":
                values = values[:, key.column * SCALAR_COLUMNS : (key.column + 1) * SCALAR_COLUMNS]
            yield str(key), _wide(codec, values, block.rows) if values.ndim == 3 else encode(codec, values)

    def _codec(self, array: str) -> str:
        return self._frames[array][0]

    def _snapshot(self, i: int, step: int, theta: NDArray[np.float32]) -> Iterator[tuple[str, Buffers]]:
        for array, values in (("theta", theta), ("theta_step", np.array([step], np.int64))):
            yield str(ChunkKey.of(array, i)), encode(self._codec(array), values)


def _wide(codec: str, sketches: Numbers, rows: int) -> Buffers:
    """Encode sketches, zeros past the end: most of the bytes of a short run, which take no room as a hole."""
    if codec == "crc32c":
        return encode(codec, sketches[:rows], np.zeros(sketches[rows:].nbytes, np.uint8).data)
    sketches[rows:] = 0.0
    return encode(codec, sketches)


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
