"""The chain of manifests against heads that were kept elsewhere: the one thing that a forger cannot recompute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gradlog.analysis.audit.findings import Line
from gradlog.format import limits
from gradlog.format.chain import manifest_reader, walk
from gradlog.format.header import RunHeader, SegmentHeader


def chain(folder: Path, segment: SegmentHeader) -> dict[str, int]:
    """Rows committed at each head of a segment's chain, the root included."""
    name = segment.name
    read = manifest_reader(lambda key: limits.read_plain(folder, f"{name}/{key}"), segment)
    links = walk(map(read, range(segment.flushes)), segment.root, name)
    return {segment.root: 0, **{link.digest: link.rows for link in links}}


def kept(folder: Path, segments: Sequence[SegmentHeader], heads: Sequence[str]) -> Iterator[Line]:
    """Look for heads, BLAKE2b-256 in hex, in the chains of a run."""
    for head in heads:
        places = [(s, rows) for s in segments for h, rows in chain(folder, s).items() if h == head]
        if not places:
            yield Line(
                "FAIL", "head", f"{head[:16]}... is no head of this run: its history is not the one that was kept"
            )
        for s, rows in places:
            yield Line("PASS", "head", f"{head[:16]}... is the head of {s.name} after {rows:,} of {s.rows:,} rows")


def of_checkpoint(
    folder: Path, header: RunHeader, segments: Sequence[SegmentHeader], state: Mapping[str, object], where: str
) -> Iterator[Line]:
    """Compare what ``Logger.state_dict`` put into a model checkpoint with the run."""
    segment = next((s for s in segments if s.name == state["segment"]), None)
    if state["uuid"] != header.uuid:
        yield Line("FAIL", "head", f"{where} was written beside run {state['uuid']}, this is {header.uuid}")
    elif segment is None:
        yield Line("FAIL", "head", f"{where} knows {state['segment']}, which is not in the run")
    elif chain(folder, segment).get(str(state["head"])) != state["rows"]:
        yield Line(
            "FAIL", "head", f"the chain of {segment.name} does not hold the head in {where} at row {state['rows']}"
        )
    else:
        yield Line("PASS", "head", f"{segment.name} begins with the {state['rows']:,} rows that {where} vouches for")
