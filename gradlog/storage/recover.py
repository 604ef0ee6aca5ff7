"""Closing what an earlier writer left open: the rows of its journals go into the store, what it left behind goes."""

from __future__ import annotations

import contextlib
import dataclasses
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
from gradlog.format.names import JOURNAL_PATTERN, PARTIAL_FILE
from gradlog.storage import liveness, spool
from gradlog.storage.block import Block
from gradlog.storage.commit import SegmentWriter, manifests, read_root, read_segment, segment_names
from gradlog.storage.paths import refuse_a_file
from gradlog.storage.settings import Storage
from gradlog.storage.sink import Sink

if TYPE_CHECKING:
    from gradlog.storage.commit_queue import CommitQueue


PATIENCE = 5.0
"""Seconds that another process of this machine may take to recover or compact a segment."""

writers: weakref.WeakValueDictionary[tuple[str, str], CommitQueue] = weakref.WeakValueDictionary()
"""Who writes in this very process, by the run's uuid and the segment's name."""


@dataclasses.dataclass(frozen=True)
class Recovered:
    """What became of one segment. ``rows`` were committed; ``live``: its writer may live, so it was left alone."""

    segment: str
    status: str
    rows: int
    live: bool


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
    sink = (storage or Storage()).open(path)
    header, _ = read_root(sink)
    found = []
    for _, _, name in segment_names(sink):
        before = read_segment(sink, name, header)
        settle(sink, header, name, force)
        after = read_segment(sink, name)
        live = after.status == "recording"
        with turn(spool.folder(sink, header.uuid, name)) as ours:
            sink.sweep(name if ours and not live else "")
        found.append(Recovered(name, after.status, after.rows - before.rows, live))
    return found


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
    folder = spool.folder(sink, header.uuid, name)
    with turn(folder) as ours:
        try:
            return _settle(sink, header, name, folder, force, ours)
        except FileNotFoundError:
            if ours:
                raise
    return settle(sink, header, name, force)  # its journals went while they were read: look at what is left


def _settle(sink: Sink, header: RunHeader, name: str, folder: Path, force: bool, ours: bool) -> tuple[str, int, int]:
    segment = read_segment(sink, name, header)
    first, last = _steps(sink, segment)
    live = still_writes(header, segment)
    dead = ours and segment.status in UNSETTLED and (live is False or (force and live is None))
    writer = SegmentWriter(sink, header, segment)
    spent: list[tuple[Path, bool]] = []  # journals, and whether each must be kept
    tail = False
    for index, path in _journals(folder).items():
        journal = spool.read(path, header)
        if len(journal) and journal.chunk == index:
            tail = True
            first = min(first, int(journal.step[0])) if last >= first else int(journal.step[0])
            last = max(last, int(journal.step[-1]))
            if dead and index * header.chunk == writer.segment.rows:
                s = writer.segment
                writer.commit(Block.of_journal(header, index, journal, s.scalars, s.update), segment.dropped)
        replayed = index * header.chunk + len(journal) <= writer.segment.rows
        spent.append((path, journal.damaged or not replayed))
    snapshots = spool.snapshots(folder, header, segment.snapshots)
    if dead and (segment.status == "recording" or tail or snapshots):
        writer.commit(None, segment.dropped, snapshots)
        writer.finish("recovered", segment.reason or "the process ended without closing", segment.dropped)
        sink.sweep(name)
        for path, keep in spent:
            _retire(path, keep)
        if sink.local is None:
            _tidy(folder)
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


def _tidy(folder: Path) -> None:
    """Remove what is left of sketches of the parameters, and spool folders that are empty then."""
    for leftover in folder.glob(f".theta-*{PARTIAL_FILE}"):
        leftover.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


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
