"""Closing what an earlier writer left open: the rows of its journals go into the store, what it left behind goes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gradlog.errors import CorruptRunError
from gradlog.format.fields import shown
from gradlog.format.header import UNSETTLED, RunHeader, SegmentHeader
from gradlog.format.limits import parse_object
from gradlog.format.names import JOURNAL_PATTERN
from gradlog.storage import liveness, spool
from gradlog.storage.block import Block
from gradlog.storage.commit import SegmentWriter, manifests, read_segment
from gradlog.storage.sink import Sink

if TYPE_CHECKING:
    from gradlog.storage.commit_queue import CommitQueue


PATIENCE = 5.0
"""Seconds that another process of this machine may take to recover or compact a segment."""

writers: weakref.WeakValueDictionary[tuple[str, str], CommitQueue] = weakref.WeakValueDictionary()
"""Who writes in this very process, by the run's uuid and the segment's name."""


def still_writes(header: RunHeader, segment: SegmentHeader) -> bool | None:
    """Whether a segment's writer goes on writing it, one of this very process included; None where nobody can tell."""
    if segment.process.items() >= liveness.process_identity().items():
        writer = writers.get((header.uuid, segment.name))
        return writer is not None and writer.writing
    return liveness.lives(segment.process)


def settle(sink: Sink, header: RunHeader, name: str, force: bool = False) -> tuple[str, int, int]:
    """Close an earlier segment whose writer is dead, journal and all; give its name and first and last step.

    ``force``: also where nobody can tell whether its writer is dead. What another process is settling is left to it.
    """
    place = spool.place(sink, header.uuid, read_segment(sink, name))
    with turn(place.folder) as ours:
        try:
            return _settle(sink, header, name, place, force, ours)
        except FileNotFoundError:
            if ours:
                raise
    return settle(sink, header, name, force)  # its journals went while they were read: look at what is left


def _settle(
    sink: Sink, header: RunHeader, name: str, place: spool.Place, force: bool, ours: bool
) -> tuple[str, int, int]:
    segment = read_segment(sink, name, header)
    first, last = _steps(sink, segment)
    live = still_writes(header, segment)
    dead = ours and segment.status in UNSETTLED and (live is False or (force and live is None))
    writer = SegmentWriter(sink, header, segment)
    spent: list[tuple[Path, bool]] = []  # journals, and whether each must be kept
    tail = False
    for index, path in _journals(place.folder).items():
        journal = spool.read(path, header, place.owner)
        if len(journal) and journal.chunk == index:
            tail = True
            first = min(first, int(journal.step[0])) if last >= first else int(journal.step[0])
            last = max(last, int(journal.step[-1]))
            if dead and index * header.chunk == writer.segment.rows:
                writer.commit(Block.of_journal(header, writer.segment, index, journal), segment.dropped)
        replayed = index * header.chunk + len(journal) <= writer.segment.rows
        spent.append((path, journal.damaged or not replayed))
    snapshots = spool.snapshots(place, header, segment.snapshots)
    if dead and (segment.status == "recording" or tail or snapshots):
        writer.commit(None, segment.dropped, snapshots)
        writer.finish("recovered", segment.reason or "the process ended without closing", segment.dropped)
        sink.sweep(name)
        for path, keep in spent:
            _retire(path, keep)
        if sink.local is None:
            spool.forget(place.folder)
    return name, first, last


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[bool]:
    """Hold a segment's folder against other processes of this machine; False where one holds it for seconds.

    The lock is the system's, on the folder itself: it leaves no file and ends with its process.
    """
    try:
        fd = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _locked(fd)
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        except OSError:  # a file system that knows no locks
            return True
        else:
            return True


def _retire(path: Path, keep: bool) -> None:
    """Delete a journal whose rows are committed. Keep any other under another name, for inspection."""
    if keep:
        path.rename(path.with_name(path.name.replace("journal", "torn")))
    else:
        path.unlink(missing_ok=True)


def _steps(sink: Sink, segment: SegmentHeader) -> tuple[int, int]:
    """First and last committed step, from the manifests; (0, -1) for none."""
    if not segment.flushes:
        return 0, -1
    try:
        read = manifests(sink, segment)
        first = _first(read, range(segment.flushes))
        last = _first(read, reversed(range(segment.flushes)))
        return (int(first[0]), int(last[1])) if first else (0, -1)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, CorruptRunError):
            raise
        raise CorruptRunError(f"{segment.name}: manifest cannot be read: {shown(error)}") from error


def _first(read: Callable[[int], bytes], flushes: Iterable[int]) -> list[int]:
    """First and last step of the first of these flushes that has rows."""
    for i in flushes:
        steps: list[int] = parse_object(read(i), f"manifest {i}")["steps"]
        if steps:
            return steps
    return []


def _journals(folder: Path) -> dict[int, Path]:
    """Journals of a segment by the chunk that their names tell, oldest first."""
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return {int(m[1]): folder / m[0] for m in map(JOURNAL_PATTERN.fullmatch, names) if m}
