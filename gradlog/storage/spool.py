"""Where rows wait that the store does not have yet: a segment's journals, beside its chunks or in a spool folder.

A run in a local folder keeps its journals in itself. One whose store is elsewhere keeps them under
``$GRADLOG_SPOOL/UUID/SEGMENT/``: every row that ``step()`` acknowledged and no commit has taken over. While the store
does not answer they add up, to ``$GRADLOG_SPOOL_SIZE`` bytes a segment; ``gradlog recover`` uploads what a process
left behind.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog.errors import CorruptRunError
from gradlog.format import journal as records
from gradlog.format import limits
from gradlog.format.header import RunHeader, SegmentHeader
from gradlog.format.journal import Journal
from gradlog.format.names import OWNER_PATTERN, PARTIAL_FILE, WAITING
from gradlog.format.sizes import size_setting
from gradlog.storage.block import Block
from gradlog.storage.paths import absolute
from gradlog.storage.sink import Sink

LIMIT = "1G"
"""Bytes of waiting rows, unless ``$GRADLOG_SPOOL_SIZE`` says otherwise."""


class Place(NamedTuple):
    """Folder of a segment's journals, and whose they say that they are."""

    folder: Path
    owner: str


def place(sink: Sink, uuid: str, segment: SegmentHeader) -> Place:
    """Where the rows of a segment wait: one that was claimed after its first rows names their place in the spool."""
    owner = records.owner(uuid, segment.name)
    if sink.local is not None:
        return Place(sink.local / segment.name, owner)
    told = segment.process.get("spool")
    if isinstance(told, str) and OWNER_PATTERN.fullmatch(told):
        owner = told
    return Place(top() / owner, owner)


def top() -> Path:
    """Return the spool folder: $GRADLOG_SPOOL, or else one in the system's temporary folder."""
    default = os.path.join(tempfile.gettempdir(), f"gradlog-spool-{os.getuid()}")
    return Path(absolute(os.environ.get("GRADLOG_SPOOL", default)))


def is_ours(top: Path) -> bool:
    """Whether nobody else can have put anything into the spool."""
    return top.stat().st_uid in (os.getuid(), 0)


def make(sink: Sink, folder: Path) -> Path:
    """Make a segment's spool folder, which nobody else may look into or have made before; beside chunks it is there.

    Raises
    ------
    PermissionError
        The spool is another user's.
    """
    if sink.local is None:
        top = folder.parent.parent
        top.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_ours(top):
            raise PermissionError(f"the spool folder {top} is another user's; let GRADLOG_SPOOL name one of your own")
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def limit() -> int:
    """Bytes of waiting rows that a segment may have.

    Raises
    ------
    UnusableInputError
        The environment names no size.
    """
    return size_setting("GRADLOG_SPOOL_SIZE", LIMIT)


def chunk_bytes(header: RunHeader, scalars: int, optional: int = 0) -> int:
    """Bytes of a full journal, annotations aside."""
    return header.chunk * records.row_bytes(len(header.groups), header.sketch.k, scalars, optional)


def command(path: str) -> str:
    """Command line that uploads what waits for the run at ``path``, on this machine."""
    spool = os.environ.get("GRADLOG_SPOOL")
    return f"{f'GRADLOG_SPOOL={shlex.quote(spool)} ' if spool else ''}gradlog recover {shlex.quote(path)}"


def fate(rows: int, kept: bool, path: str) -> str:
    """Say what happens to the rows that a remote store did not take until the end.

    >>> fate(3, False, "s3://bucket/run.zarr")
    'without a journal the last 3 rows are lost'
    """
    if not kept:
        return f"without a journal the last {rows} rows are lost"
    return f"{rows} rows wait in the spool. When the store is back: {command(path)}"


def read(path: Path, header: RunHeader, owner: str) -> Journal:
    """Journal in a file of a segment's folder. Damage does not raise."""
    return records.read_journal(limits.read_plain(path.parent, path.name), owner, len(header.groups), header.sketch.k)


def snapshots(place: Place, header: RunHeader, first: int) -> list[tuple[int, NDArray[np.float32]]]:
    """Sketches of the parameters in a segment's folder from number ``first`` on: those that no flush has taken."""
    found: list[tuple[int, NDArray[np.float32]]] = []
    (folder, owner), shape = place, (len(header.groups), header.sketch.k)
    while (path := folder / WAITING.format(first + len(found))).exists():
        data = limits.read_plain(folder, path.name)
        kept = records.read_snapshot(data, first + len(found), owner, *shape)
        if kept is None:
            break
        found.append(kept)
    return found


def reload(path: Path, header: RunHeader, owner: str, index: int, segment: SegmentHeader) -> Block:
    """Read chunk ``index`` of a segment, all of whose rows a journal must hold.

    Raises
    ------
    CorruptRunError
        It holds fewer.
    """
    journal = read(path, header, owner)
    if journal.chunk != index or len(journal) != header.chunk:
        raise CorruptRunError(f"{path} holds {len(journal)} of {header.chunk} rows that wait for the store")
    return Block.of_journal(header, segment, index, journal)


def forget(folder: Path) -> None:
    """Remove what is left of sketches of the parameters, and spool folders that are empty then."""
    for leftover in folder.glob(f".theta-*{PARTIAL_FILE}"):
        leftover.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()
