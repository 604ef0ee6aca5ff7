"""Opening a run: create it, join it, or continue it after a kill; what a new segment takes over from the last."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gradlog import groups as grouping
from gradlog import provenance, sketch, spool
from gradlog.errors import CorruptRunError, NewerFormatError, RunExistsError, SpecMismatchError
from gradlog.paths import of_run
from gradlog.schema import (
    JOURNAL_PATTERN,
    MANIFEST,
    META,
    PARTIAL_FILE,
    RunHeader,
    SegmentHeader,
    SketchSpec,
    TensorInfo,
    chunk_rows,
    digest,
)
from gradlog.sink import Sink, clear, open_sink
from gradlog.store import SegmentWriter, create_root, now, read_root, read_segment, segment_names

log = logging.getLogger("gradlog")

Layout = Sequence[tuple[str, tuple[int, ...], str]]
"""(name, shape, dtype) of every parameter tensor, in order."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The arguments of :func:`gradlog.open`, checked."""

    path: str
    layout: Layout | None
    k: int | str
    seed: int
    groups: Any
    every: int
    mode: str
    stage: str
    what: str
    chunk: int | None
    codec: str
    sketch_bits: int
    rank: int
    first_step: int | None
    journal: bool
    durable: bool
    hostname: bool
    notes: Mapping[str, Any]
    argv: bool = True
    optimizer: Mapping[str, Any] | None = None

    def provenance(self, notes: bool) -> dict[str, Any]:
        """Facts about this process, with the run's notes or without."""
        return provenance.collect(self.hostname, self.notes if notes else None, self.argv, self.optimizer)


@dataclasses.dataclass(frozen=True)
class Opened:
    """A segment that is claimed and ready for rows. ``parents``: (name, first, last step) of earlier segments."""

    path: str
    sink: Sink
    header: RunHeader
    segment: SegmentHeader
    next_step: int
    parents: list[tuple[str, int, int]]


def open_segment(plan: Plan, layout: Layout, new: Layout = ()) -> Opened:
    """Create or join the run at ``plan.path`` and claim a segment of it.

    The header that is returned has every tensor that rows of the segment include: those of the run, those of
    ``layout`` that joined in an earlier segment, and the ``new`` ones that join in this one.

    Raises
    ------
    RunExistsError
        Mode "w-" and a run is there.
    SpecMismatchError
        Mode "a" and the run there was recorded with another sketch, layout, stage or interval.
    """
    if plan.mode == "new":
        return _open_beside(plan, layout)
    sink = open_sink(plan.path, plan.durable)
    _require_free(sink, plan.path)
    number = 0
    if plan.mode == "w":
        # A writer of the old run that still lives shall find its folder gone, and not share one with the new run.
        number = 1 + max((n for n, _, _ in segment_names(sink)), default=-1)
        clear(sink)
    there = segment_names(sink)
    mine = [name for _, rank, name in there if rank == plan.rank]
    if plan.mode == "w-" and mine:
        raise _exists(plan.path)
    earlier = {t.name: t for name in mine for t in read_segment(sink, name).joined}
    wanted = _header(plan, [t for t in layout if t[0] not in earlier])
    header, root = create_root(sink, wanted)
    if header.uuid != wanted.uuid:
        require_same(header, wanted, plan.path)
    joined = _joined(header, layout, earlier, new)
    parents = [_settle(sink, header, name) for name in mine]
    ends = [p for p in parents if p[2] >= p[1]]
    last = ends[-1][2] if ends else -1
    next_step = plan.first_step if plan.first_step is not None else last + 1
    number = max([number, *(n + 1 for n, rank, _ in there if rank == plan.rank)])
    if plan.rank:  # one launch, one number: that of rank 0 where it has opened already
        number = max([number, *(n for n, rank, _ in there if rank == 0)])
    while True:
        segment = SegmentHeader(
            number=number,
            rank=plan.rank,
            parent=mine[-1] if mine else None,
            root=digest(root),
            head=digest(root),
            joined=joined,
            opened=now(),
            process={**provenance.process_identity(), "resumed": plan.provenance(notes=False) if mine else None},
        )
        if SegmentWriter(sink, header, segment).create():
            _sweep(sink, segment.name)
            header = dataclasses.replace(header, tensors=header.tensors + joined)
            return Opened(plan.path, sink, header, segment, next_step, ends)
        if plan.mode == "w-":  # another process was faster
            raise _exists(plan.path)
        number += 1


def _exists(path: str) -> RunExistsError:
    """Say what may be done where a run is already."""
    return RunExistsError(
        f'{path} holds a run; pass mode="new" to record beside it, mode="a" to continue it, mode="w" to replace it'
    )


def _open_beside(plan: Plan, layout: Layout) -> Opened:
    """Create the run under the first number whose claim succeeds: of two processes each gets one of its own."""
    n = 1
    while True:
        path = of_run(plan.path, n)
        try:
            return open_segment(dataclasses.replace(plan, path=path, mode="w-"), layout)
        except (RunExistsError, SpecMismatchError, CorruptRunError, NewerFormatError) as error:
            log.debug("%s is taken: %s", path, error)
        n += 1


class Writing(Protocol):
    """Who writes a segment."""

    @property
    def writing(self) -> bool:
        """Whether it may go on; what it lacks otherwise is for whoever continues or recovers the run."""


writers: weakref.WeakValueDictionary[tuple[str, str], Writing] = weakref.WeakValueDictionary()
"""Who writes in this very process, by the run's uuid and the segment's name."""


def with_parent(segment: SegmentHeader, parents: list[tuple[str, int, int]], first: int) -> SegmentHeader:
    """Name the step of the parent that this segment's first row follows: less than its last after a rewind."""
    _, start, last = parents[-1]
    return dataclasses.replace(segment, parent_step=min(last, first - 1) if first > start else None)


def require_same(header: RunHeader, wanted: RunHeader, path: str) -> None:
    """Raise SpecMismatchError naming the first thing in which two headers differ."""
    for field in ("sketch", "stage", "what", "every", "chunk", "codec", "sketch_bits", "groups"):
        old, new = getattr(header, field), getattr(wanted, field)
        if old != new:
            raise SpecMismatchError(f"{path} was recorded with {field}={old}, this process wants {new}")
    for i, (old, new) in enumerate(zip(header.tensors, wanted.tensors, strict=False)):
        if old != new:
            raise SpecMismatchError(f"{path}: parameter {i} was {old}, this process has {new}")
    if len(header.tensors) != len(wanted.tensors):
        raise SpecMismatchError(
            f"{path} was recorded with {len(header.tensors)} parameters, this process has {len(wanted.tensors)}"
        )


def describe_plan(path: str, header: RunHeader) -> str:
    """One line: what is recorded and what it costs."""
    row = header.n * 4 + len(header.groups) * 8 + 40
    files = 6 / header.chunk * 1000
    kind = "exact" if header.sketch.exact else f"{header.sketch.kind} to k={header.sketch.k}"
    return (
        f"recording to {path}: {header.dimension:,} coordinates in {len(header.groups)} groups, {kind}; "
        f"{row / 1024:.1f} KiB a step, chunks of {header.chunk} steps, {max(files, 1):.0f} files per 1,000 steps, "
        f"{2 * header.chunk * row / 2**20:.1f} MiB of buffers"
    )


def _header(plan: Plan, layout: Layout) -> RunHeader:
    names = [name for name, _, _ in layout]
    plain = [TensorInfo(name, tuple(shape), dtype, 0) for name, shape, dtype in layout]
    group_names, index = grouping.assign(names, [t.size for t in plain], plan.groups)
    infos = tuple(dataclasses.replace(t, group=g) for t, g in zip(plain, index, strict=True))
    sizes = [0] * len(group_names)
    for t in infos:
        sizes[t.group] += t.size
    spec: SketchSpec = sketch.exact_spec(sizes) if plan.k == "exact" else sketch.FoldHash(int(plan.k), plan.seed).spec
    return RunHeader(
        sketch=spec,
        groups=tuple(group_names),
        tensors=infos,
        chunk=plan.chunk or chunk_rows(len(group_names) * spec.k * 4),
        codec=plan.codec,
        sketch_bits=plan.sketch_bits,
        stage=plan.stage,
        what=plan.what,
        every=plan.every,
        created=now(),
        uuid=uuid.uuid4().hex,
        provenance=plan.provenance(notes=True),
    )


def _joined(
    header: RunHeader, layout: Layout, earlier: Mapping[str, TensorInfo], new: Layout
) -> tuple[TensorInfo, ...]:
    """Tensors that a segment has beyond the run's own, each in the group of its nearest relative."""
    joined = []
    for name, shape, dtype in layout:
        if name in earlier:
            if (tuple(shape), dtype) != (earlier[name].shape, earlier[name].dtype):
                raise SpecMismatchError(f"parameter {earlier[name]} joined the run, this process has {shape} {dtype}")
            joined.append(earlier[name])
    if new and header.sketch.exact:
        raise SpecMismatchError(f"k='exact' fixes the coordinates of a run: {new[0][0]!r} cannot join it")
    names, index = [t.name for t in header.tensors], [t.group for t in header.tensors]
    joined += [TensorInfo(n, tuple(s), d, grouping.nearest(n, names, index)) for n, s, d in new]
    return tuple(joined)


def _require_free(sink: Any, path: str) -> None:
    """Refuse a folder that holds something other than a run: it is neither written into nor replaced."""
    local = getattr(sink, "local", None)
    if local is None or not local.exists():
        return
    foreign = local.is_dir() and any(not p.name.endswith(PARTIAL_FILE) for p in local.iterdir())
    if not local.is_dir() or (foreign and not (local / META).exists()):
        raise RunExistsError(f"{path} exists and is no gradlog run; choose another path")
    if (local / META).exists():
        read_root(sink)


@dataclasses.dataclass(frozen=True)
class Recovered:
    """What became of one segment. ``rows`` were committed; ``live``: its writer may live, so it was left alone."""

    segment: str
    status: str
    rows: int
    live: bool


def recover(path: str | os.PathLike[str], force: bool = False) -> list[Recovered]:
    """Commit the rows that writers left in their journals: killed ones, or those whose store did not answer.

    Parameters
    ----------
    path : str or path-like
        The run's store, as it was given to :func:`gradlog.open`. If that is a URL, call this on the machine that
        recorded, whose spool folder has the rows.
    force : bool
        Do so for segments too whose writer may still live, as that of another machine, or from before a restart.

    Returns
    -------
    list of Recovered
        One entry a segment, in order.

    Raises
    ------
    NotARunError, CorruptRunError
        There is no run, or its metadata cannot be read.
    StoreUnavailableError
        The store does not answer, still.

    Examples
    --------
    >>> recover("s3://bucket/run.zarr")          # doctest: +SKIP
    [Recovered(segment='seg-000000-r0000', status='recovered', rows=4096, live=False)]
    """
    sink = open_sink(path)
    header, _ = read_root(sink)
    found = []
    for _, _, name in segment_names(sink):
        before = read_segment(sink, name)
        _settle(sink, header, name, force)
        after = read_segment(sink, name)
        found.append(Recovered(name, after.status, after.rows - before.rows, after.status == "recording"))
    return found


def _settle(sink: Sink, header: RunHeader, name: str, force: bool = False) -> tuple[str, int, int]:
    """Close an earlier segment whose writer is dead, journal and all; give its name and first and last step."""
    segment = read_segment(sink, name)
    first, last = _steps(sink, segment)
    folder = spool.folder(sink, header.uuid, name)
    journals = _journals(folder)
    tail = []
    for index, path in journals.items():
        journal = spool.read(path, header)
        if len(journal) and journal.chunk == index:
            tail.append(index)
            first = min(first, int(journal.step[0])) if last >= first else int(journal.step[0])
            last = max(last, int(journal.step[-1]))
    snapshots = spool.snapshots(folder, header, segment.snapshots)
    unfinished = segment.status == "recording" or (segment.status == "failed" and (tail or snapshots))
    if unfinished and (force or not _lives(header, segment)):
        writer = SegmentWriter(sink, header, segment)
        for index in tail:
            if index * header.chunk == writer.segment.rows:
                journal = spool.read(journals[index], header)
                writer.commit(spool.block(header, index, journal, writer.segment.scalars), segment.dropped)
        writer.commit(None, segment.dropped, snapshots)
        writer.finish("recovered", segment.reason or "the process ended without closing", segment.dropped)
        _sweep(sink, name)
        for index, path in journals.items():
            journal = spool.read(path, header)
            replayed = index * header.chunk + len(journal) <= writer.segment.rows
            _retire(path, keep=journal.damaged or not replayed)
        if sink.local is None:
            _tidy(folder)
    return name, first, last


def _lives(header: RunHeader, segment: SegmentHeader) -> bool:
    """Whether a segment's writer may go on writing it; one of this very process may have let go of it."""
    if segment.process.items() >= provenance.process_identity().items():
        writer = writers.get((header.uuid, segment.name))
        return writer is not None and writer.writing
    return provenance.may_be_alive(segment.process)


def _tidy(folder: Path) -> None:
    """Remove what is left of sketches of the parameters, and spool folders that are empty then."""
    for leftover in folder.glob(f".theta-*{PARTIAL_FILE}"):
        leftover.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def _retire(path: Path, keep: bool) -> None:
    """Delete a journal whose rows are committed; keep any other under another name, for whoever wants to look."""
    if keep:
        path.rename(path.with_name(path.name.replace("journal", "torn")))
    else:
        path.unlink(missing_ok=True)


def _sweep(sink: Sink, name: str) -> None:
    """Delete the temporary files that a killed writer left in a segment."""
    for leftover in [] if sink.local is None else (sink.local / name).rglob(f"*{PARTIAL_FILE}"):
        leftover.unlink(missing_ok=True)


def _steps(sink: Sink, segment: SegmentHeader) -> tuple[int, int]:
    """First and last committed step, from the manifests; (0, -1) for none."""
    try:
        first = _first(sink, segment, range(segment.flushes))
        last = _first(sink, segment, reversed(range(segment.flushes)))
        return (int(first[0]), int(last[1])) if first else (0, -1)
    except (ValueError, KeyError, TypeError, IndexError, FileNotFoundError) as error:
        raise CorruptRunError(f"{segment.name}: manifest cannot be read: {error!r}") from error


def _first(sink: Sink, segment: SegmentHeader, flushes: Iterable[int]) -> list[int]:
    """First and last step of the first of these flushes that has rows."""
    for i in flushes:
        steps: list[int] = json.loads(sink.get(f"{segment.name}/{MANIFEST.format(i)}"))["steps"]
        if steps:
            return steps
    return []


def _journals(folder: Path) -> dict[int, Path]:
    """Journals of a segment by the chunk that their names tell, oldest first."""
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return {int(m[1]): folder / m[0] for m in map(JOURNAL_PATTERN.fullmatch, names) if m}
