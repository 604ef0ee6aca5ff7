"""Runs whose store did not answer when they were opened, and ``gradlog recover``, which opens and fills them later.

Nobody knows then what the path holds. What is there when the store answers is left as it is. The rows go on in it only
if mode "a" asked for that and they fit behind its own. Otherwise they become a run beside it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable

from gradlog.errors import (
    CorruptRunError,
    NewerFormatError,
    NotARunError,
    RunExistsError,
    SpecMismatchError,
    StoreUnavailableError,
)
from gradlog.format.header import RunHeader, SegmentHeader
from gradlog.format.journal import owner
from gradlog.recorder import earlier_runs, provenance
from gradlog.recorder.options import RecordingOptions
from gradlog.recorder.plan import Layout, Plan
from gradlog.recorder.setup import Opened, open_beside, open_segment
from gradlog.storage import liveness, spool, tickets
from gradlog.storage.commit import SegmentWriter, now, read_root, read_segment, root_metadata, segment_names
from gradlog.storage.paths import absolute, is_url, refuse_a_file
from gradlog.storage.recover import settle, still_writes, turn
from gradlog.storage.settings import Storage
from gradlog.storage.sink import Sink
from gradlog.storage.tickets import Opening, Ticket

log = logging.getLogger("gradlog")


@dataclasses.dataclass(frozen=True)
class Recovered:
    """What became of one segment. ``rows`` were committed; ``live``: its writer may live, so it was left alone.

    ``path`` is where the run is, if not where it was meant to be: another one is there.
    """

    segment: str
    status: str
    rows: int
    live: bool
    path: str = ""


def recover(path: str | os.PathLike[str], force: bool = False, *, storage: Storage | None = None) -> list[Recovered]:
    """Commit the rows that writers left in their journals: killed ones, or those whose store did not answer.

    Parameters
    ----------
    path : str or path-like
        The run's store, as it was given to :func:`gradlog.open`. If that is a URL, call this on the machine that
        recorded, whose spool folder has the rows.
    force : bool
        Do so for segments too whose writer may still live, as that of another machine, or from before a restart. One
        that does live on this machine keeps its segment.
    storage : Storage, optional
        How the store is opened, as for :func:`gradlog.open`.

    Returns
    -------
    list of Recovered
        One entry a segment, in order.

    Raises
    ------
    NotARunError, CorruptRunError
        There is no run, or a file such as an archive of one; or its metadata cannot be read.
    StoreUnavailableError
        The store does not answer, still.

    Examples
    --------
    >>> recover("s3://bucket/run.zarr")          # doctest: +SKIP
    [Recovered(segment='seg-000000-r0000', status='recovered', rows=4096, live=False)]
    """
    refuse_a_file(path)
    place, storage = absolute(path), storage or Storage()
    late = {(one.path, one.segment): one for one in redeem(place, storage, force)}
    found = [Recovered(ticket.segment.name, "recording", 0, True) for ticket in _tickets(place)]
    try:
        sink = storage.open(place)
        header, _ = read_root(sink)
        for _, _, name in segment_names(sink):
            settled = _settled(sink, header, name, force)
            found.append(late.pop((place, name), settled))
    except (NotARunError, CorruptRunError):
        if not late and not found:
            raise
    return [dataclasses.replace(one, path="") for one in found] + list(late.values())


def defer(
    plan: Plan, layout: Layout, refusal: StoreUnavailableError, done: Callable[[Opened], None]
) -> tuple[Opened, Opening]:
    """Begin to record a run whose store does not answer: its segment is claimed later, and ``done`` is told then.

    Raises
    ------
    ValueError
        No reader would take the run.
    StoreUnavailableError
        Its rows cannot wait: they have no journal.
    """
    options = plan.options
    if not (is_url(plan.path) and options.journal):
        raise refusal
    header = plan.header(layout)
    root_metadata(header)
    segment = SegmentHeader(rank=options.rank, opened=now(), optional=plan.optional)
    process = {
        **liveness.process_identity(),
        "resumed": provenance.collect(options, notes=False),
        "spool": owner(header.uuid, segment.name),
    }
    segment = dataclasses.replace(segment, process=process)
    ticket = Ticket(plan.path, options.mode == "a", header, segment, None if options.first_step is None else {})

    def claim(ticket: Ticket) -> SegmentWriter:
        if ticket.joins:
            redeem(plan.path, plan.storage)
        opened = _claim(ticket, plan.storage)
        done(opened)
        return opened.writer

    writer = SegmentWriter(plan.storage.open(plan.path, options.durable), header, segment)
    return Opened(plan.path, header, writer, options.first_step or 0), Opening(ticket, claim, refusal)


def redeem(path: str, storage: Storage, force: bool = False) -> list[Recovered]:
    """Open the runs, and commit the rows, that dead processes left in the spool whose store never answered them."""
    found = []
    for waiting in _tickets(path):
        with turn(waiting.folder) as ours:
            ticket = tickets.read(waiting.folder) if ours else None
            live = None if ticket is None else still_writes(ticket.header, ticket.segment)
            if ticket is None or live or (live is None and not force):
                continue
            opened = _claim(ticket, storage)
            ticket.discard()
        sink, name = opened.writer.sink, opened.writer.segment.name
        found.append(dataclasses.replace(_settled(sink, opened.header, name, force), path=opened.path))
    return found


def _tickets(path: str) -> list[Ticket]:
    return tickets.waiting(path) if is_url(path) else []


def _claim(ticket: Ticket, storage: Storage) -> Opened:
    """Claim a segment, in what is there or beside it."""
    layout = [(t.name, t.shape, t.dtype) for t in ticket.header.tensors]
    options = RecordingOptions(mode="a", rank=ticket.segment.rank, storage=storage)
    plan = Plan(ticket.path, layout, options, ticket)
    if ticket.joins:
        path = earlier_runs.with_uuid(plan.path, str(ticket.follows["uuid"])) if ticket.follows else plan.path
        try:
            return open_segment(dataclasses.replace(plan, path=path), layout)
        except (RunExistsError, SpecMismatchError, CorruptRunError, NewerFormatError) as error:
            log.info("%s: its rows are recorded beside it: %s", path, error)
    return open_beside(plan, layout)


def _settled(sink: Sink, header: RunHeader, name: str, force: bool) -> Recovered:
    """Settle a segment, and sweep it."""
    before = read_segment(sink, name, header)
    settle(sink, header, name, force)
    after = read_segment(sink, name)
    live = after.status == "recording"
    with turn(spool.place(sink, header.uuid, before).folder) as ours:
        sink.sweep(name if ours and not live else "")
    return Recovered(name, after.status, after.rows - before.rows, live)
