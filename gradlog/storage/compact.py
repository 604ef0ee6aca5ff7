"""Rewrite a finished segment into few files, without touching a byte of what was recorded.

Chunks become the inner chunks of Zarr shards as they are, manifests the lines of one file, so that every digest
and the chain stay valid. The shards are written beside the chunks and read back; then one atomic commit makes
them the segment, and only after that do the old files go. A kill at any moment leaves a readable run.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from gradlog.errors import CorruptRunError, NotARunError, UnsupportedError
from gradlog.format import limits, shards
from gradlog.format.chain import digest, walk
from gradlog.format.header import RunHeader, SegmentHeader
from gradlog.format.layout import ChunkKey, row_arrays, scalar_chunks, snapshots_in
from gradlog.format.names import JOURNAL_PATTERN, MANIFEST, MANIFESTS, META, WAITING_PATTERN
from gradlog.storage.commit import SegmentWriter, manifests, read_root, read_segment, segment_names
from gradlog.storage.paths import absolute, refuse_a_file
from gradlog.storage.recover import still_writes, turn
from gradlog.storage.sink import LocalSink

SHARD_BYTES = 256 * 2**20
"""Sketch bytes that go into one shard at most; a shard is built in memory."""


@dataclasses.dataclass(frozen=True)
class Compacted:
    """What became of one segment: files before and after, or why it was left alone."""

    segment: str
    before: int
    after: int
    skipped: str = ""


def compact(path: str | os.PathLike[str], shard_bytes: int = SHARD_BYTES) -> list[Compacted]:
    """Compact every finished segment of a local run.

    Parameters
    ----------
    path : str or path-like
        The run.
    shard_bytes : int
        Upper bound of a shard's sketch bytes.

    Returns
    -------
    list of Compacted
        One entry a segment, in order.

    Raises
    ------
    NotARunError, CorruptRunError
        There is no run, or a chunk or a header contradicts a manifest; that segment is not changed then.
    UnsupportedError
        The run is not in a local directory.

    Examples
    --------
    >>> gradlog.compact("run.zarr")          # doctest: +SKIP
    """
    if "://" in os.fspath(path):
        raise UnsupportedError(f"{path}: only local runs can be compacted; copy it here, compact, copy it back")
    path = absolute(path)
    refuse_a_file(path)
    if not (Path(path) / META).is_file():
        raise NotARunError(f"{path}: no {META} inside; expected the folder of a run such as 'run.zarr'")
    sink = LocalSink(path)
    header, _ = read_root(sink)
    sink.sweep()
    return [_turn(sink, header, Path(path, name), shard_bytes) for _, _, name in segment_names(sink)]


def _turn(sink: LocalSink, header: RunHeader, folder: Path, shard_bytes: int) -> Compacted:
    with turn(folder) as ours:
        if ours:
            return _segment(sink, header, folder.name, shard_bytes)
    files = len(sink.keys(folder.name))
    return Compacted(folder.name, files, files, "is being recovered or compacted by another process")


def _segment(sink: LocalSink, header: RunHeader, name: str, shard_bytes: int) -> Compacted:
    segment = read_segment(sink, name, header)
    files = sink.keys(name)
    why = _unfinished(files, header, segment)
    if why:
        return Compacted(name, len(files), len(files), why)
    read = manifests(sink, segment)
    lines = [read(i) for i in range(segment.flushes)]
    listing = sum(map(len, lines)) + len(lines)
    if not segment.shard and listing > limits.LISTING:
        why = f"its manifests have {listing:,} bytes, in one file readers take {limits.LISTING:,} at most"
        return Compacted(name, len(files), len(files), why)
    digests = _digests(lines, segment)
    sketched = snapshots_in(digests)
    if sketched != segment.snapshots:
        raise CorruptRunError(
            f"{name}: its header declares {segment.snapshots:,} snapshots, its manifests list {sketched:,}; "
            "run: gradlog audit"
        )
    if not segment.shard:
        segment = _shards(sink, header, segment, shard_bytes, lines, digests)
    else:
        why = "is compact already"
    _sweep(sink, header, segment, lines, digests)
    return Compacted(name, len(files), len(sink.keys(name)), why)


def _shards(
    sink: LocalSink,
    header: RunHeader,
    segment: SegmentHeader,
    shard_bytes: int,
    lines: list[bytes],
    digests: dict[str, str],
) -> SegmentHeader:
    """Write the shards beside the chunks and let them take over; give the segment's new state."""
    chunk_bytes = header.chunk * header.n * 4
    per_shard = max(1, min(shard_bytes // chunk_bytes, -(-segment.rows // header.chunk)))
    for array in row_arrays(segment.optional):
        for key, chunks in _plan(array, header, segment, per_shard):
            _shard(sink, segment.name, key, chunks, per_shard, digests)
    sink.put(f"{segment.name}/{MANIFESTS}", [b"\n".join(lines)])
    writer = SegmentWriter(sink, header, segment)
    writer.publish(dataclasses.replace(segment, shard=per_shard))
    return writer.segment


def _sweep(
    sink: LocalSink, header: RunHeader, segment: SegmentHeader, lines: list[bytes], digests: dict[str, str]
) -> None:
    """Delete what the shards replaced, and what a compaction that was cut off left.

    Only files whose bytes the shards hold, by the digests of the sealed manifests, and shards by name that the segment
    does not have. A compaction that was killed after its commit leaves this to the next.
    """
    arrays = row_arrays(segment.optional)
    kept = {key for array in arrays for key, _ in _plan(array, header, segment, segment.shard)}
    replaced = {key: known for key, known in digests.items() if key.partition("/")[0] in arrays}
    replaced |= {MANIFEST.format(i): digest(line) for i, line in enumerate(lines)}
    for path in sink.keys(segment.name):
        key = path.partition("/")[2]
        chunk = ChunkKey.parse(key)
        other = chunk is not None and chunk.shard and chunk.array in arrays and key not in kept
        if other or (key in replaced and digest(sink.get(path)) == replaced[key]):
            sink.discard(path)
    sink.sweep(segment.name)


def _unfinished(files: list[str], header: RunHeader, segment: SegmentHeader) -> str:
    if segment.rows == 0:
        return "has no rows"
    if segment.status == "recording" and still_writes(header, segment) is not False:
        return "may still be written to"
    names = [key.partition("/")[2] for key in files]
    if not segment.shard and any(JOURNAL_PATTERN.fullmatch(n) or WAITING_PATTERN.fullmatch(n) for n in names):
        return 'has rows in its journal or sketches beside it: open it once with mode="a" on the host that recorded it'
    return ""


def _digests(lines: list[bytes], segment: SegmentHeader) -> dict[str, str]:
    """Digest of every chunk by its key, from a chain that is checked on the way."""
    found: dict[str, str] = {}
    head, rows = segment.root, 0
    for manifest in walk(lines, head, segment.name):
        found |= manifest.chunks
        head, rows = manifest.digest, manifest.rows
    if head != segment.head:
        raise CorruptRunError(f"{segment.name}: the chain of manifests is broken; run: gradlog audit")
    if rows != segment.rows:
        raise CorruptRunError(f"{segment.name} declares {segment.rows} rows, its manifests {rows}; run: gradlog audit")
    return found


def _plan(array: str, header: RunHeader, segment: SegmentHeader, per_shard: int) -> Iterator[tuple[str, list[str]]]:
    """(key of a shard, keys of its chunks) of one array; only the rows are cut, and scalars also by column."""
    chunks = -(-segment.rows // header.chunk)
    for start in range(0, chunks, per_shard):
        inside = range(start, min(start + per_shard, chunks))
        for column in range(scalar_chunks(len(segment.scalars)) if array == "scalars" else 1):
            keys = [str(ChunkKey.of(array, i, column)) for i in inside]
            yield str(ChunkKey.of(array, start // per_shard, column, shard=True)), keys


def _shard(sink: LocalSink, name: str, key: str, chunks: list[str], count: int, digests: dict[str, str]) -> None:
    data = [sink.get(f"{name}/{c}") if c in digests else None for c in chunks]
    for c, chunk in zip(chunks, data, strict=True):
        if chunk is not None and digest(chunk) != digests[c]:
            raise CorruptRunError(f"{name}/{c}: bytes contradict the manifest; run: gradlog audit")
    if all(chunk is None for chunk in data):
        return
    sink.put(f"{name}/{key}", shards.pack(data, count))
    if shards.unpack(sink.get(f"{name}/{key}"), count)[: len(data)] != data:
        raise OSError(f"{name}/{key} does not read back as written; nothing was changed")
