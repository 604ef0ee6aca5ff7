"""Integrity of a stored run: whether every byte agrees with the digests that were written beside it.

Each flush wrote a manifest with the size and BLAKE2b-256 of its chunks and the digest of the manifest before.
The chain starts at the root's metadata and ends at the head that the segment's commit record names. That record
carries a digest of itself. This finds damage and accidents. It cannot find a forger who rewrites the
whole chain; a head kept elsewhere (in a checkpoint) can. ``docs/format.md`` lists what no check can find.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

from gradlog.analysis.audit import leftovers
from gradlog.analysis.audit.files import Chunks, Files, Shards, open_files
from gradlog.errors import CorruptRunError, GradlogError, StoreUnavailableError
from gradlog.format import journal as records
from gradlog.format import layout, limits
from gradlog.format.chain import digest, is_sealed
from gradlog.format.fields import shown
from gradlog.format.header import UNSETTLED, RunHeader, SegmentHeader, attributes
from gradlog.format.journal import following
from gradlog.format.names import (
    JOURNAL,
    JOURNAL_PATTERN,
    MANIFEST,
    MANIFESTS,
    META,
    PARTIAL_FILE,
    SEGMENT_PATTERN,
    TORN,
)

_LOOKS = 5
"""How often a segment with problems is looked at, at most."""


@dataclasses.dataclass
class Findings:
    """What an integrity check found.

    Attributes
    ----------
    problems : list of str
        One line each; bytes are missing, changed, or where none belong. Empty for a sound run.
    notes : list of str
        Traces of kills and rewinds, which are normal.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def examine(files: Files) -> Findings:
    """Check every file of a run against manifests, chain and metadata. Nothing is raised for damage; it may be live.

    Examples
    --------
    >>> from gradlog.analysis.audit.files import Folder
    >>> examine(Folder("/nonexistent.zarr")).problems
    ['zarr.json: missing']
    """
    findings = Findings()
    findings.problems += _run(files, findings.notes)
    return findings


def check(path: str | os.PathLike[str]) -> Findings:
    """Examine the files of a run, then read it, comparing rows that were logged again after a rewind.

    Parameters
    ----------
    path : str or path-like
        A folder, a .zip of one, or an fsspec URL.

    Raises
    ------
    NotARunError
        Nothing is there.
    StoreUnavailableError
        The store elsewhere refused; nothing can be said about the run.

    Examples
    --------
    >>> check("run.zarr").problems          # doctest: +SKIP
    []
    """
    findings = examine(open_files(path))
    if findings.problems:
        return findings
    from gradlog.analysis.reading.rewinds import describe, describe_writers
    from gradlog.analysis.reading.run import open_run

    try:
        run = open_run(path)
        findings.notes += describe(run.relogged) + describe_writers(run.relogged["writers"])
        if run.fewer_ranks:
            findings.notes.append(f"{run.fewer_ranks} rows come from fewer ranks than others")
    except StoreUnavailableError:
        raise
    except GradlogError as error:
        findings.problems.append(str(error))
    return findings


def _run(files: Files, notes: list[str]) -> Iterator[str]:
    root = files.get(META)
    if root is None:
        yield f"{META}: missing"
        return
    try:
        header = RunHeader.from_attrs(attributes(root, META), META)
    except GradlogError as error:
        yield str(error)
        return
    keys = files.keys()
    folders = sorted({key.split("/")[0] for key in keys if "/" in key})
    segments = [name for name in folders if SEGMENT_PATTERN.fullmatch(name)]
    if not segments:
        yield "no segment: the run is empty"
    notes += leftovers.remarks(keys)
    for name in [*(key for key in keys if "/" not in key), *folders]:
        if name not in segments and name != META and not leftovers.is_harmless(name):
            yield f"{name}: no part of a run"
    for name in segments:
        problems, found = _settled(files, header, digest(root), name, segments)
        yield from (f"{name}/{problem}" for problem in problems)
        notes += [f"{name}/{note}" for note in found]


def _settled(files: Files, header: RunHeader, root: str, name: str, segments: list[str]) -> tuple[list[str], list[str]]:
    """Problems and notes of a segment; a problem is one that is still there when looked at again.

    A live writer goes on between two of our reads: what it is just doing looks like damage, at the next flush maybe
    once more, but not twice under the same commit.
    """
    last: list[str] | None = None
    before: bytes | None = None
    for _ in range(_LOOKS):
        commit = files.get(f"{name}/{META}")
        look = _Look(files, header, name)
        found = list(look.problems(root, segments))
        problems = found if last is None else [problem for problem in last if problem in found]
        if not problems or (problems == last and commit == before):
            break
        last, before = problems, commit
    return problems, look.notes


class _Look:
    """One look at a segment, which may be written to meanwhile.

    Attributes
    ----------
    inside : set of str
        Keys of its files.
    listed : set of str
        Those that belong to it, as far as looked.
    notes : list of str
    """

    def __init__(self, files: Files, header: RunHeader, name: str) -> None:
        self.files, self.header, self.name = files, header, name
        self.inside = {key[len(name) + 1 :] for key in files.keys() if key.startswith(f"{name}/")}  # noqa: SIM118
        self.listed: set[str] = set()
        self.notes: list[str] = []

    def get(self, key: str) -> bytes | None:
        """Content of a file of the segment."""
        return self.files.get(f"{self.name}/{key}")

    def problems(self, root: str, segments: list[str]) -> Iterator[str]:
        """Say what contradicts the root's digest, the headers, the manifests, or what a kill may leave."""
        if all(key.endswith(PARTIAL_FILE) for key in self.inside):
            self.notes.append("not begun: its writer was killed before it wrote the metadata")
            return
        # Before the commit record: the rows of a journal that is retired from here on are in the chunks it names.
        held = {k: self.get(k) for k in sorted(self.inside, reverse=True) if JOURNAL_PATTERN.fullmatch(k)}
        owner, shape = records.owner(self.header.uuid, self.name), (len(self.header.groups), self.header.sketch.k)
        journals, _ = records.read_all(held, owner, *shape)
        segment, arrays, fault = self._metadata()
        if segment is None:
            yield f"{META}: {fault}"
            return
        if segment.name != self.name:
            yield f"{META}: belongs to {segment.name}"
        if segment.root != root:
            yield f"{META}: the run's zarr.json is not the one that this segment was recorded under"
        if segment.parent is not None and segment.parent not in segments:
            yield f"{META}: continues {segment.parent}, which is missing"
        # A newer minor version may have more arrays.
        implied = layout.arrays(self.header, segment)
        if not isinstance(arrays, dict) or arrays != arrays | implied:
            yield f"{META}: the arrays' metadata is not what the headers imply"
            return
        coming = self._uncommitted(segment)
        yield from self._arrays(segment, arrays, coming)
        source = Shards(self.files, segment) if segment.shard else None
        yield from self._chain(segment, source or self.files, set() if source else self.listed)
        if source:
            self.listed |= source.listed
            yield from source.problems
        if segment.status in UNSETTLED:
            yield from self._tail(segment, journals)
        yield from self._unlisted(segment, coming)

    def _metadata(self) -> tuple[SegmentHeader | None, object, str]:
        """Header and arrays of the commit record; or why there are none."""
        data = self.get(META)
        if data is None:
            return None, None, "missing"
        if not is_sealed(data):
            return None, None, "its bytes contradict its own digest"
        try:
            segment = SegmentHeader.from_attrs(attributes(data, META), META)
            segment.require_bounds(self.header, META)
            return segment, limits.parse_object(data, META)["consolidated_metadata"]["metadata"], ""
        except (GradlogError, TypeError, KeyError) as error:
            return None, None, str(error)

    def _uncommitted(self, segment: SegmentHeader) -> dict[str, object]:
        """Manifest of a flush that was cut off, or is under way, before its last step; empty where there is none."""
        if segment.status not in UNSETTLED:
            return {}
        manifest = _json(self.get(MANIFEST.format(segment.flushes)))
        return manifest if manifest.get("prev") == segment.head else {}

    def _arrays(
        self, segment: SegmentHeader, committed: Mapping[str, object], coming: Mapping[str, object]
    ) -> Iterator[str]:
        """Each array's own metadata: as committed or, where a flush or compaction was cut off, as these have it."""
        allowed = [committed]
        if coming:
            names, chunks = coming.get("scalars"), coming.get("chunks")
            taken = segment.snapshots + (layout.snapshots_in(chunks) if isinstance(chunks, dict) else 0)
            scalars = tuple(names) if isinstance(names, list) else ()
            rows = _interval(coming.get("rows"))[1]
            after = dataclasses.replace(segment, rows=rows, scalars=scalars, snapshots=taken, shard=0)
            allowed.append(layout.arrays(self.header, after))
        unwritten = segment.flushes == 0 and segment.status == "recording"
        compacting = MANIFESTS in self.inside and not segment.shard
        self.listed |= {META, *(f"{array}/{META}" for array in committed)}
        for array in committed:
            data = self.get(f"{array}/{META}")
            found = _json(data)
            if compacting and leftovers.is_resharded(self.header, segment, array, found):
                continue
            if found not in [arrays.get(array) for arrays in allowed] and not (data is None and unwritten):
                yield f"{array}/{META}: missing or not what the headers imply"

    def _chain(self, segment: SegmentHeader, source: Chunks, seen: set[str]) -> Iterator[str]:
        """Walk over the manifests, each naming the one before and exactly the chunks of its rows.

        The recorder and every reader walk with ``format.chain.walk``, which stops at the first fault. This walk is
        another on purpose: it reads what that one might misread, and goes on to tell what else is wrong.
        """
        previous, rows, most = segment.root, 0, self.header.chunk
        for i in range(segment.flushes):
            key = MANIFEST.format(i)
            data = source.get(f"{segment.name}/{key}")
            manifest = _json(data)
            if data is None or not manifest:
                yield f"{key}: missing or not JSON; the chain breaks here"
                return
            if manifest.get("prev") != previous:
                yield f"{key}: does not follow the manifest before it"
            if manifest.get("segment") != segment.name or manifest.get("flush") != i:
                yield f"{key}: belongs elsewhere"
            start, stop = _interval(manifest.get("rows"))
            if start != rows or not 0 <= stop - start <= most or (stop > start and start % most):
                yield f"{key}: rows {shown(manifest.get('rows'))} are no chunk of {most:,} after row {rows:,}"
            previous, rows = digest(data), stop
            seen.add(key)
            yield from self._chunks(source, manifest, key, seen, segment.optional)
        if previous != segment.head:
            yield f"{META}: the chain's head is not the newest manifest"
        if rows != segment.rows:
            yield f"{META}: {segment.rows:,} rows are declared, the manifests hold {rows:,}"

    def _chunks(
        self, source: Chunks, manifest: Mapping[str, object], where: str, seen: set[str], optional: Sequence[str]
    ) -> Iterator[str]:
        """Compare the chunks of a flush with their digests; each row needs all of its chunks, and none twice."""
        chunks, names = manifest.get("chunks"), manifest.get("scalars")
        start, stop = _interval(manifest.get("rows"))
        if not isinstance(chunks, dict) or not isinstance(names, list) or len(names) > limits.COLUMNS:
            yield f"{where}: lists no chunks"
            return
        needed = layout.chunk_keys(start // self.header.chunk, len(names), optional) if stop > start >= 0 else ()
        odd = {key for key in chunks if key.partition("/")[0] in layout.row_arrays(optional)} ^ set(map(str, needed))
        if odd:
            yield f"{where}: it must list exactly the chunks of its rows; {shown(min(odd))} is missing or too much"
        for key, entry in chunks.items():
            chunk = layout.ChunkKey.parse(key)
            if chunk is None or chunk.shard or not isinstance(entry, dict) or key in seen:
                yield f"{shown(key)}: not a chunk of this format, or listed twice"
                continue
            seen.add(key)
            data = source.get(f"{self.name}/{key}")
            if data is None:
                yield f"{key}: missing"
            elif len(data) != entry.get("size"):
                yield f"{key}: {len(data)} bytes, the manifest says {shown(entry.get('size'))}"
            elif digest(data) != entry.get("blake2b"):
                yield f"{key}: bytes contradict the manifest"

    def _tail(self, segment: SegmentHeader, journals: Mapping[int, records.Journal]) -> Iterator[str]:
        for journal, fault in following(journals, segment.rows, self.header.chunk):
            if fault:
                yield fault
            elif journal.torn:
                self.notes.append(f"{JOURNAL.format(journal.chunk)}: a last row was cut short by a kill")

    def _unlisted(self, segment: SegmentHeader, coming: Mapping[str, object]) -> Iterator[str]:
        """Files that no manifest names: what a kill leaves, or what does not belong here."""
        rest = self.inside - self.listed
        if compaction := leftovers.of_compaction(segment, rest):
            files = f"{len(compaction):,} files of a compaction that was cut off"
            self.notes.append(f"{files}; gradlog compact RUN finishes it")
        keys = rest - compaction
        manifest, journal = MANIFEST.format(segment.flushes), JOURNAL.format(segment.rows // self.header.chunk)
        start, stop = _interval(coming.get("rows"))
        for key in sorted(keys):
            if leftovers.is_harmless(key) or (JOURNAL_PATTERN.fullmatch(key) and segment.status in UNSETTLED):
                continue
            if key.startswith(TORN):
                self.notes.append(f"{key}: rows that could not be taken over into the run")
            elif segment.status == "closed" or segment.shard:
                yield f"{key}: in no manifest"
            elif key == manifest and start < stop and segment.status == "recording" and journal not in keys:
                yield f"{key}: written but not committed, and {journal}, which must hold its rows, is missing"
            elif key == manifest or self._of_a_flush(key, segment):
                self.notes.append(f"{key}: of a flush that was not committed")
            elif JOURNAL_PATTERN.fullmatch(key):
                self.notes.append(f"{key}: left over, its rows were taken over into the run")
            else:
                yield f"{key}: in no manifest"

    def _of_a_flush(self, key: str, segment: SegmentHeader) -> bool:
        """Whether this is what the flush after the last committed one writes."""
        array, _, file = key.partition("/")
        if array in layout.SNAPSHOTS and file == META:
            return True
        chunk = layout.ChunkKey.parse(key)
        if chunk is None or chunk.shard:
            return False
        if chunk.array in layout.SNAPSHOTS:
            return chunk.index >= segment.snapshots
        return chunk.index == segment.rows // self.header.chunk


def _interval(rows: object) -> tuple[int, int]:
    if isinstance(rows, list) and len(rows) == 2 and all(type(r) is int for r in rows):
        return rows[0], rows[1]
    return -1, -1


def _json(data: bytes | memoryview | None) -> dict[str, object]:
    """JSON object in a file; empty where there is none."""
    try:
        return {} if data is None else limits.parse_object(data, "")
    except CorruptRunError:
        return {}
