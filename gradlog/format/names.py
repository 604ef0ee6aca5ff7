"""Names of the files of a run, and of what they are to each other: what may be replaced, cleared away or deleted.

Pure: no file is touched here. The keys of chunks are built and parsed in ``layout``.
"""

from __future__ import annotations

import os
import re
import secrets

META = "zarr.json"
MANIFEST = "manifest/{:06d}.json"
MANIFESTS = "manifest/all.jsonl"
JOURNAL = ".journal-{:06d}"
WAITING = ".theta-{:06d}.partial"
TORN = ".torn-"
PARTIAL_FILE = ".partial"
SEGMENT = "seg-{number:06d}-r{rank:04d}"
SEGMENT_PATTERN = re.compile(r"seg-(\d{6})-r(\d{4})")
JOURNAL_PATTERN = re.compile(r"\.journal-(\d{6})")
OWNER_PATTERN = re.compile(r"[0-9A-Za-z_-]{1,64}/seg-\d{6}-r\d{4}")
WAITING_PATTERN = re.compile(r"\.theta-(\d{6})\.partial")

HALF_NORM2 = "half_norm2:{}"
HALF_PATTERN = re.compile(r"half_norm2:\d+")
"""Scalars of a row whose batch was recorded in two halves: for each group, by its number, the squared norm of half the
difference of their gradients."""

WEIGHT_NORM, UPDATE_NORM = "weight_norm/", "update_norm/"
"""What scalars begin with that are norms of the parameters of a group, whose name follows, and of their change."""

_TEMPORARY = re.compile(r".+\.[0-9a-f]+-[0-9a-f]+\.partial", re.DOTALL)
_LEFTOVER = re.compile(r"(?:zarr\.json|replaced)\.[0-9a-f]+-[0-9a-f]+\.partial")
_REPLACING = re.compile(r"replacing\.[0-9a-f]+-[0-9a-f]+\.partial")


def temporary(name: str) -> str:
    """Name for a file that is not whole yet: of this process, and never one that another file has.

    >>> is_temporary(temporary("zarr.json"))
    True
    """
    return f"{name}.{os.getpid()}-{secrets.token_hex(6)}{PARTIAL_FILE}"


def is_temporary(name: str) -> bool:
    """Whether a writer gave this name to a file that was not whole yet.

    >>> is_temporary("zarr.json.71-71.partial"), is_temporary("notes.partial")
    (True, False)
    """
    return _TEMPORARY.fullmatch(name) is not None


def is_leftover(name: str) -> bool:
    """Whether this entry of a run's own folder is of no use: the beginning of a root file, or a run that was replaced.

    >>> is_leftover("zarr.json.71-71.partial"), is_leftover("notes.partial")
    (True, False)
    """
    return _LEFTOVER.fullmatch(name) is not None


def is_part_of_run(name: str) -> bool:
    """Whether this entry of a run's own folder goes with the run, besides its root metadata.

    >>> is_part_of_run("seg-000000-r0000"), is_part_of_run("model.pt")
    (True, False)
    """
    return SEGMENT_PATTERN.fullmatch(name) is not None or _REPLACING.fullmatch(name) is not None
