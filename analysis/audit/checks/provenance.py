"""What was written down about the process that recorded, and what somebody would miss who wants to repeat it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from gradlog.analysis.audit.findings import Line
from gradlog.format.header import RunHeader

_DIGEST = re.compile(r"(sha\d*|md5|blake|crc|digest|hash|checksum|etag|revision)", re.IGNORECASE)
_DATA = re.compile(r"(data|corpus|dataset|train)", re.IGNORECASE)
_SEED = re.compile(r"seed", re.IGNORECASE)


def checklist(header: RunHeader) -> dict[str, bool]:
    """Say of each thing that a repetition needs whether it was recorded.

    Examples
    --------
    >>> from gradlog.format.header import SketchSpec
    >>> checklist(RunHeader(SketchSpec("fold-hash/1", 8, 2**15, 0), ("w",), (), 64))["git commit"]
    False
    """
    p = header.provenance
    notes, argv, git = _mapping(p.get("notes")), p.get("argv"), _mapping(p.get("git"))
    words = [str(a) for a in argv] if isinstance(argv, list) else []
    told = list(_leaves(notes))
    return {
        "library versions": len(_mapping(p.get("versions"))) > 1,
        "platform": bool(p.get("platform")),
        "command line": bool(words),
        "git commit": bool(git.get("commit")),
        "no uncommitted changes": git.get("dirty") is False,
        "threads": bool(p.get("threads")),
        "host": bool(p.get("hostname")),
        "seed of the training": any(_SEED.search(w) for w in words) or any(_SEED.search(key) for key, _ in told),
        "digest or revision of the data": any(
            _DATA.search(key) and _DIGEST.search(f"{key} {value}") for key, value in told
        ),
    }


def provenance(header: RunHeader) -> Iterator[Line]:
    """Tell what is recorded and what is missing. All of it is the recording process's own word."""
    items = checklist(header)
    there = [item for item, found in items.items() if found]
    missing = [item for item, found in items.items() if not found]
    if there:
        yield Line("PASS", "provenance", f"recorded: {', '.join(there)}", {"recorded": there})
    if missing:
        text = f"not recorded, so a repetition has to guess: {', '.join(missing)}"
        yield Line("WARN", "provenance", text, {"missing": missing})


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _leaves(notes: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in notes.items():
        if isinstance(value, Mapping) and len(prefix) < 200:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
