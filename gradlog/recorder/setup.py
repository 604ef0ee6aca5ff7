"""Opening a run: create it, join it, or continue it after a kill; what a new segment takes over from the last."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gradlog.errors import CorruptRunError, NewerFormatError, NotARunError, RunExistsError, SpecMismatchError
from gradlog.format.chain import digest
from gradlog.format.fields import shown
from gradlog.format.header import RunHeader, SegmentHeader, TensorInfo
from gradlog.format.layout import is_own
from gradlog.format.names import META, PARTIAL_FILE
from gradlog.recorder.messages import tell
from gradlog.recorder.plan import Layout, Plan
from gradlog.sketching import groups as grouping
from gradlog.sketching.fold_hash import RANDOM_MAPS
from gradlog.storage import liveness
from gradlog.storage.commit import (
    SegmentWriter,
    create_root,
    now,
    read_root,
    read_segment,
    root_metadata,
    segment_names,
)
from gradlog.storage.paths import of_run
from gradlog.storage.recover import settle, still_writes, writers
from gradlog.storage.sink import Sink
from gradlog.storage.tickets import Ticket

log = logging.getLogger("gradlog")

_TRIES = 5
"""How often other processes may come in between, before this one gives up."""


class Opened(NamedTuple):
    """A segment that is claimed and ready for rows, and the header of all that they include."""

    path: str
    header: RunHeader
    writer: SegmentWriter
    next_step: int


def open_segment(plan: Plan, layout: Layout, new: Layout = ()) -> Opened:
    """Create or join the run at ``plan.path`` and claim a segment of it.

    The returned header has every tensor that rows of the segment include. These are the tensors of the run, those of
    ``layout`` that joined in an earlier segment, and the ``new`` ones that join in this one.

    Raises
    ------
    RunExistsError
        Mode "w-" and a run is there, or mode "a" and another process of this machine is recording it.
    SpecMismatchError
        Mode "a" and the run there was recorded with another sketch, layout, stage or interval.
    """
    if plan.options.mode == "new":
        return open_beside(plan, layout)
    sink = plan.storage.open(plan.path, plan.options.durable)
    _require_free(sink, plan.path)
    least = 0
    if plan.options.mode == "w":
        root_metadata(plan.header(layout))  # before anything is deleted for a run that nobody could read
        least = _replace(sink, plan.path)
    for _ in range(_TRIES):
        opened = _claim(sink, plan, layout, new, least)
        if opened is not None:
            return opened
    raise RunExistsError(f"{plan.path}: other processes open and replace this run all the time; choose another path")


def _claim(sink: Sink, plan: Plan, layout: Layout, new: Layout, least: int) -> Opened | None:
    """Claim a segment; None where another process was quicker, and what it did must be looked at first."""
    there = [found for found in segment_names(sink) if found[0] >= least]
    mine = [name for _, rank, name in there if rank == plan.options.rank]
    if plan.ticket is not None and (claimed := _claimed_before(sink, plan.ticket, mine)):
        return _opened(plan, claimed, [name for name in mine if name != claimed.segment.name], least)
    if plan.options.mode == "w-" and mine:
        raise _exists(plan.path)
    before = [read_segment(sink, name) for name in mine]
    earlier = {t.name: t for segment in before for t in segment.joined}
    wanted = plan.header([t for t in layout if t[0] not in earlier])
    header, root = create_root(sink, wanted)
    if header.uuid != wanted.uuid:
        if plan.options.mode == "w":
            raise _raced(plan.path)
        if header.sketch.kind in RANDOM_MAPS and wanted.sketch.kind in RANDOM_MAPS:  # a run keeps its kind
            wanted = plan.header([t for t in layout if t[0] not in earlier], header.sketch.kind)
        require_same(header, wanted, plan.path)
    if before and before[-1].optional != plan.optional:
        was, wants = ("with", "none") if before[-1].optional else ("without", "them")
        raise SpecMismatchError(f"{plan.path} was recorded {was} updates beside gradients, this process wants {wants}")
    _require_rest(sink, plan.path, header, mine)
    if plan.ticket is not None and plan.options.mode == "a":
        _require_place(sink, header, plan.ticket.follows, mine)
    segment = SegmentHeader(
        number=_number(there, plan.options.rank, least),
        rank=plan.options.rank,
        parent=mine[-1] if mine else None,
        root=digest(root),
        head=digest(root),
        joined=_joined(header, layout, earlier, new, plan.options.groups),
        opened=now() if plan.ticket is None else plan.ticket.segment.opened,
        optional=plan.optional,
        process=plan.process(bool(mine)),
    )
    writer = SegmentWriter(sink, header, segment)
    if not _claimed(sink, writer, mine, least):
        if plan.options.mode == "a":
            return None
        raise _exists(plan.path) if plan.options.mode == "w-" else _raced(plan.path)
    try:
        return _opened(plan, writer, mine, least)
    except BaseException:
        writer.withdraw()
        raise


def _claimed_before(sink: Sink, ticket: Ticket, mine: Sequence[str]) -> SegmentWriter | None:
    """Segment that was claimed for a ticket already, by a process that was killed then, or whose answer was lost."""
    for segment in (read_segment(sink, name) for name in mine):
        if segment.process.get("spool") == ticket.owner:
            return SegmentWriter(sink, read_root(sink)[0], segment)
    return None


def _claimed(sink: Sink, writer: SegmentWriter, mine: Sequence[str], least: int) -> bool:
    """Create a segment, and take it back where another process opened the run, or replaced it, at the same moment."""
    try:
        if not writer.create():
            return False
    except (SpecMismatchError, FileNotFoundError):
        return False
    rank, number = writer.segment.rank, writer.segment.number
    if any(r == rank and least <= n < number and name not in mine for n, r, name in segment_names(sink)):
        writer.withdraw()
        return False
    return True


def _opened(plan: Plan, writer: SegmentWriter, mine: Sequence[str], least: int) -> Opened:
    """Settle the earlier segments of this rank, and tell those that this very process still writes."""
    sink, header, segment = writer.sink, writer.header, writer.segment
    sink.sweep(segment.name)
    for number, _, name in segment_names(sink) if plan.options.mode == "w" else []:
        if number < least:  # what a live writer put elsewhere, into the run that was replaced, since that was deleted
            for key in sink.keys(name):
                sink.discard(key)
    parents = [settle(sink, header, name) for name in mine]
    for name in mine:
        earlier = writers.get((header.uuid, name))
        if earlier is not None and earlier.writing:
            earlier.supersede(segment.name)
    ends = [(first, last) for _, first, last in parents if last >= first]
    last = -1
    if ends:
        writer.parent = ends[-1]
        last = ends[-1][1]
    next_step = plan.options.first_step if plan.options.first_step is not None else last + 1
    return Opened(plan.path, dataclasses.replace(header, tensors=header.tensors + segment.joined), writer, next_step)


def _require_place(sink: Sink, header: RunHeader, follows: Mapping[str, object] | None, mine: Sequence[str]) -> None:
    """Refuse, before anything is claimed, a run that may not be what rows belong to that waited for its store."""
    if follows:
        require_seen(sink, header, follows)
    elif follows is None and mine:
        raise SpecMismatchError("rows that were counted from 0 do not go on from those of a run that is there")


def require_seen(sink: Sink, header: RunHeader, state: Mapping[str, object]) -> None:
    """Raise SpecMismatchError where the run is not the one of a checkpoint, or has lost rows that it had then."""
    if state["uuid"] != header.uuid:
        raise SpecMismatchError(f"the checkpoint belongs to run {state['uuid']}, this is {header.uuid}")
    if read_segment(sink, str(state["segment"])).rows < int(str(state["rows"])):
        raise SpecMismatchError(f"{state['segment']} has lost rows that were committed at the checkpoint")


def _number(there: Sequence[tuple[int, int, str]], rank: int, least: int) -> int:
    """Choose the next number: one launch has one, that of rank 0 where it has opened already."""
    numbers = [least, *(n + 1 for n, r, _ in there if r == rank)]
    return max([*numbers, *(n for n, r, _ in there if r == 0)] if rank else numbers)


def _exists(path: str) -> RunExistsError:
    """Say what may be done where a run is already."""
    return RunExistsError(
        f'{path} holds a run; pass mode="new" to record beside it, mode="a" to continue it, mode="w" to replace it'
    )


def open_beside(plan: Plan, layout: Layout) -> Opened:
    """Create the run under the first number whose claim succeeds: of two processes each gets one of its own."""
    n, options = 1, dataclasses.replace(plan.options, mode="w-")
    while True:
        path = of_run(plan.path, n)
        try:
            return open_segment(dataclasses.replace(plan, path=path, options=options), layout)
        except (RunExistsError, SpecMismatchError, CorruptRunError, NewerFormatError) as error:
            log.debug("%s is taken: %s", path, error)
        n += 1


def _require_rest(sink: Sink, path: str, header: RunHeader, mine: Sequence[str]) -> None:
    """Refuse a run that another process of this machine is recording."""
    for name in mine:
        segment = read_segment(sink, name)
        here = segment.process.items() >= liveness.process_identity().items()
        if segment.status == "recording" and not here and still_writes(header, segment):
            raise RunExistsError(
                f"{path} is being recorded by process {segment.process.get('pid')} of this machine ({name}): "
                "wait until it has ended, or choose another path"
            )


def _raced(path: str) -> RunExistsError:
    return RunExistsError(f"{path}: another process opened or replaced the run at the same moment; choose another path")


def _replace(sink: Sink, path: str) -> int:
    """Delete the run that is there, and give the least number for segments of the new one.

    It is none that the old run had: a writer of that which still lives finds its folder gone, and does not share one
    with the new run. Files in the segments that are not the recorder's forbid it.
    """
    there = segment_names(sink)
    for _, _, name in there:
        odd = [key for key in sink.keys(name) if not is_own(key)]
        if odd:
            raise RunExistsError(
                f"{path} holds {odd[0]}, which is no file of a run: move it away, or choose another path"
            )
    with contextlib.suppress(CorruptRunError, NotARunError):
        header, _ = read_root(sink)
        for _, _, name in there:
            segment = read_segment(sink, name)
            live = still_writes(header, segment) if segment.status == "recording" else False
            if live is not False:
                who = f"process {segment.process.get('pid')} is" if live else "a process of another machine may be"
                told = f"the run that is replaced was not closed: {who} still recording {name}"
                tell(path, f"{told}, whose rows are deleted")
    sink.clear()
    return 1 + max((number for number, _, _ in there), default=-1)


def require_same(header: RunHeader, wanted: RunHeader, path: str) -> None:
    """Raise SpecMismatchError naming the first thing in which two headers differ."""
    if differs := _difference(header, wanted):
        raise SpecMismatchError(f"{path} {differs}; mode='new' records beside it")


def _difference(header: RunHeader, wanted: RunHeader) -> str:
    for field in ("sketch", "stage", "what", "every", "chunk", "codec", "sketch_bits", "groups"):
        old, new = getattr(header, field), getattr(wanted, field)
        if old != new:
            return f"was recorded with {field}={shown(old)}, this process wants {shown(new)}"
    for i, (old, new) in enumerate(zip(header.tensors, wanted.tensors, strict=False)):
        if old != new:
            return f"has {old} as parameter {i}, this process {new}"
    if len(header.tensors) != len(wanted.tensors):
        return f"was recorded with {len(header.tensors)} parameters, this process has {len(wanted.tensors)}"
    return ""


def _joined(
    header: RunHeader, layout: Layout, earlier: Mapping[str, TensorInfo], new: Layout, groups: grouping.Groups
) -> tuple[TensorInfo, ...]:
    """Tensors that a segment has beyond the run's own.

    Each is in the group that a function of the user's names, or else in that of its nearest relative.
    """
    joined = []
    for name, shape, dtype in layout:
        if name in earlier:
            if (tuple(shape), dtype) != (earlier[name].shape, earlier[name].dtype):
                raise SpecMismatchError(f"parameter {earlier[name]} joined the run, this process has {shape} {dtype}")
            joined.append(earlier[name])
    if new and header.sketch.exact:
        raise SpecMismatchError(f"k='exact' fixes the coordinates of a run: {new[0][0]!r} cannot join it")
    near = [t for t in header.tensors if t.place is None]
    if new and not near:
        raise SpecMismatchError(f"all groups of the run are stored without error: {new[0][0]!r} cannot join one")
    names, index = [t.name for t in near], [t.group for t in near]
    placed = {t.group for t in header.tensors if t.place is not None}
    known = {group: i for i, group in enumerate(header.groups) if i not in placed}
    for name, shape, dtype in new:
        told = groups(name) if callable(groups) else None
        place = known[told] if told in known else grouping.nearest(name, names, index)
        joined.append(TensorInfo(name, tuple(shape), dtype, place))
    return tuple(joined)


def _require_free(sink: Sink, path: str) -> None:
    """Refuse a place that holds something other than a run: it is neither written into nor replaced."""
    taken = RunExistsError(f"{path} exists and is no gradlog run; choose another path")
    if sink.local is not None and sink.local.exists() and not sink.local.is_dir():
        raise taken
    try:
        read_root(sink)
    except NotARunError:
        odd = [name for name in sink.names() if not name.endswith(PARTIAL_FILE)]
        if odd and META not in {*odd, *sink.names()}:  # asked again: another process may be opening it
            raise taken from None
