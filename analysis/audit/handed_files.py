"""The files of a run that somebody handed over: what they are, and whether they are within the bounds.

A link may point anywhere, a pipe blocks its reader, a device never ends: only plain files and folders pass. Of those
none is opened that is larger than what is read of such a file. The bounds stand in ``gradlog.format.limits``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gradlog.errors import CorruptRunError, NotARunError, UnsupportedError
from gradlog.format import limits
from gradlog.format.header import RunHeader, SegmentHeader, attributes
from gradlog.format.journal import row_bytes
from gradlog.format.layout import OPTIONAL, ChunkKey, split_key
from gradlog.format.names import JOURNAL_PATTERN, META, SEGMENT_PATTERN


def require_folder(path: str | os.PathLike[str]) -> Path:
    """Return the run's folder.

    Raises
    ------
    UnsupportedError
        It is a URL or an archive.
    NotARunError
        There is no folder, or no metadata file in it.
    """
    text = os.path.expanduser(os.fspath(path))
    if "://" in text or "::" in text or os.path.isfile(text):
        raise UnsupportedError(f"{text}: an audit reads every file of a local folder; copy or unpack the run first")
    if not os.path.isdir(text):
        raise NotARunError(f"{text}: no such folder; expected a run such as 'run.zarr'")
    if not os.path.lexists(os.path.join(text, META)):
        raise NotARunError(f"{text}: no {META} inside; expected the folder of a run such as 'run.zarr'")
    return Path(text)


def sizes(folder: Path) -> tuple[dict[str, int], list[str]]:
    """List plain files by key with their size, sorted, and what must not be there.

    Returns
    -------
    found : dict of str to int
        Bytes by slash-separated key. Names that are no UTF-8 carry surrogates, as :func:`os.fsdecode` gives them.
    problems : list of str
    """
    found: dict[str, int] = {}
    problems: list[str] = []
    for key, status in limits.walk(folder):
        if odd := limits.kind(status):
            problems.append(f"{key}: {odd}")
            continue
        found[key] = status.st_size
        if len(found) > limits.FILES:
            return found, [*problems, f"more than {limits.FILES:,} files"]
    return dict(sorted(found.items())), problems


def exceeded(folder: Path, files: dict[str, int]) -> Iterator[str]:
    """List what a run declares or holds beyond the bounds; empty for any run that the recorder wrote.

    Parameters
    ----------
    folder : Path
        The run.
    files : dict of str to int
        Size of every file by key.
    """
    try:
        header = read_header(folder)
    except (CorruptRunError, OSError) as error:
        yield str(error)
        return
    large = [key for key, size in files.items() if size > max(limits.most(key), _is_data(key) * header.largest_file)]
    if large:
        yield from (f"{key}: {files[key]:,} bytes are more than is read of one file" for key in large)
        return
    row = row_bytes(len(header.groups), header.sketch.k, limits.COLUMNS, optional=len(OPTIONAL)) + 40
    for key, size in files.items():
        if JOURNAL_PATTERN.fullmatch(split_key(key)[1]) and size > header.chunk * row + limits.METADATA:
            yield f"{key}: {size:,} bytes are more than the rows of a chunk can need"
    for name in sorted({key.partition("/")[0] for key in files}):
        if SEGMENT_PATTERN.fullmatch(name) and f"{name}/{META}" in files:
            yield from (f"{name}/{text}" for text in _segment(folder, name, files, header))


def _segment(folder: Path, name: str, files: dict[str, int], header: RunHeader) -> Iterator[str]:
    try:
        segment = _read_segment(folder, name)
        segment.require_bounds(header, META)
    except (CorruptRunError, OSError) as error:
        yield str(error)
        return
    manifests = sum(key.startswith(f"{name}/manifest/") for key in files)
    if not segment.shard and manifests < segment.flushes:
        yield f"{META}: {segment.flushes:,} flushes are declared, {manifests:,} manifests are there"


def read_header(folder: Path) -> RunHeader:
    """Header of the run in a local folder; CorruptRunError for a damaged one or one that is out of bounds."""
    return RunHeader.from_attrs(attributes(limits.read_plain(folder, META), META), META)


def headers(folder: Path) -> tuple[RunHeader, list[SegmentHeader]]:
    """Headers of a run that is within the bounds, and of its committed segments in order."""
    names = sorted(p.name for p in folder.iterdir() if SEGMENT_PATTERN.fullmatch(p.name) and (p / META).is_file())
    return read_header(folder), [_read_segment(folder, name) for name in names]


def _read_segment(folder: Path, name: str) -> SegmentHeader:
    return SegmentHeader.from_attrs(attributes(limits.read_plain(folder, f"{name}/{META}"), META), META)


def _is_data(key: str) -> bool:
    return ChunkKey.parse(split_key(key)[1]) is not None
