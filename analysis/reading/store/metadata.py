"""The small objects that say what a run holds, each read once: the root's header, commit records and journals."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gradlog.analysis.reading.store.stores import Location, get, list_names, open_store
from gradlog.errors import CorruptRunError, GradlogError, NotARunError
from gradlog.format import limits
from gradlog.format.chain import digest, is_sealed
from gradlog.format.header import ROOT_KEY, RunHeader, SegmentHeader, attributes
from gradlog.format.names import JOURNAL_PATTERN, META, PARTIAL_FILE, SEGMENT_PATTERN, WAITING_PATTERN

if TYPE_CHECKING:
    from zarr.abc.store import Store


@dataclasses.dataclass(frozen=True)
class SegmentMetadata:
    """Commit record of a segment, and its journals by file name, the newest first."""

    name: str
    record: bytes
    journals: Mapping[str, bytes]


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a run says of itself, and the opened store that it was read from.

    Attributes
    ----------
    store, prefix
        The store, and where in it the run begins.
    location, where
        What was asked for, and its name in messages.
    root : bytes
    header : RunHeader
    segments : list of SegmentMetadata
        Those with a commit record, oldest first.
    """

    store: Store
    prefix: str
    location: Location
    where: str
    root: bytes
    header: RunHeader
    segments: list[SegmentMetadata]

    @property
    def digest(self) -> str | None:
        """Digest of everything that an analysis could see of the run: headers, committed rows, journals.

        Every manifest lists the digests of its chunks and that of the manifest before, and the record names the newest
        one: it stands for all committed bytes. None where a record contradicts itself, or has rows and no manifest.
        """
        pieces = [self.root]
        for segment in self.segments:
            try:
                header = SegmentHeader.from_attrs(attributes(segment.record, segment.name), segment.name)
            except GradlogError:
                return None
            if not is_sealed(segment.record) or (header.rows and not header.head):
                return None
            pieces += [segment.record, *segment.journals.values()]
        return digest(*(digest(piece).encode() for piece in pieces))


def read_metadata(location: Location, only: str | None = None) -> Metadata:
    """Open a store and read what the run in it says of itself; of its segments all, or ``only`` one.

    Raises
    ------
    NotARunError, NewerFormatError, CorruptRunError
        As of ``open_run``.
    """
    store, prefix = open_store(location)
    where = os.fspath(location) if isinstance(location, str | os.PathLike) else str(location)
    root = _root(store, prefix, where)
    header = RunHeader.from_attrs(_attributes(root, where), where)
    names = [only] if only else sorted(n for n in list_names(store, prefix) if SEGMENT_PATTERN.fullmatch(n))
    segments = [found for name in names if (found := _segment(store, prefix, name)) is not None]
    return Metadata(store, prefix, location, where, root, header, segments)


def _root(store: Store, prefix: str, where: str) -> bytes:
    try:
        raw = get(store, prefix + META)
    except GradlogError:
        raise
    except OSError as error:
        raise NotARunError(f"{where}: cannot be read: {error}") from error
    if raw is None:
        raise NotARunError(f"{where}: no {META} inside; expected the folder of a run such as 'run.zarr'")
    return raw


def _attributes(root: bytes, where: str) -> Mapping[str, object]:
    meta = limits.parse_json(root, f"{where}/{META}")
    attrs = meta.get("attributes") if isinstance(meta, dict) else None
    if not isinstance(attrs, Mapping) or ROOT_KEY not in attrs:
        raise NotARunError(f"{where}: a zarr store, but not a gradlog run (no '{ROOT_KEY}' attribute)")
    return attrs


def _segment(store: Store, prefix: str, name: str) -> SegmentMetadata | None:
    """Read a segment; None where nothing but temporary files lies: its writer was killed at birth.

    Raises
    ------
    CorruptRunError
        It holds files but its commit record is gone.
    """
    folder = prefix + name
    files = sorted(list_names(store, folder), reverse=True)
    # Journals first: one that a live writer retires from here on is a chunk in the commit record read next. Newest
    # first: it may go on to the next one between two reads, and retire the one before.
    wanted = [file for file in files if JOURNAL_PATTERN.fullmatch(file) or WAITING_PATTERN.fullmatch(file)]
    journals = {file: data for file in wanted if (data := get(store, f"{folder}/{file}")) is not None}
    record = get(store, f"{folder}/{META}")
    if record is None and all(file.endswith(PARTIAL_FILE) for file in files):
        return None
    record = record or get(store, f"{folder}/{META}")  # again: a live writer may have claimed it before the rest
    if record is None:
        raise CorruptRunError(f"{folder}: files without {META}, the segment's commit record")
    return SegmentMetadata(name, record, journals)
