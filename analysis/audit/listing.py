"""One digest for a whole run, and the listing behind it, in the format of ``sha256sum``.

Anybody can make both without gradlog ::

    (cd RUN && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) > run.sha256
    sha256sum run.sha256

The first is the listing that ``--manifest`` takes, the second the digest that ``--digest`` prints.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from gradlog.analysis.audit.findings import Line, problems
from gradlog.analysis.audit.handed_files import require_folder, sizes
from gradlog.errors import CorruptRunError
from gradlog.format import limits

_LINE = re.compile(rb"(\\?)([0-9a-f]{64}) [ *](?:\./)?(.+)")


def listing(folder: Path) -> bytes:
    """SHA-256 of every file, one line each as ``sha256sum`` prints it, sorted by the bytes of the name."""
    names = sorted(b"./" + os.fsencode(key) for key in sizes(folder)[0])
    return b"".join(_line(_sha256(folder, os.fsdecode(name)), name) for name in names)


def tree_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the listing of a run, in hex.

    Raises
    ------
    NotARunError
        There is no run.
    CorruptRunError
        It holds links, pipes or devices.
    """
    folder = require_folder(path)
    odd = sizes(folder)[1]
    if odd:
        raise CorruptRunError(odd[0])
    return hashlib.sha256(listing(folder)).hexdigest()


def compare(folder: Path, manifest: bytes) -> Iterator[Line]:
    """Compare every file of a run with a listing that was kept elsewhere."""
    expected: dict[bytes, str] = {}
    odd = 0
    for line in manifest.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            expected[_unescape(match[3]) if match[1] else match[3]] = match[2].decode()
        else:
            odd += bool(line.strip())
    if odd or not expected:
        yield Line(
            "FAIL",
            "manifest",
            f"not a sha256sum listing: {odd} lines could not be parsed; 'gradlog audit --help' says how to make one",
        )
        return
    found = {os.fsencode(key) for key in sizes(folder)[0]}
    texts = [f"{_show(name)}: in the manifest, not in the run" for name in sorted(expected.keys() - found)]
    texts += [f"{_show(name)}: in the run, not in the manifest" for name in sorted(found - expected.keys())]
    texts += [
        f"{_show(name)}: its SHA-256 is not the one in the manifest"
        for name in sorted(found & expected.keys())
        if _sha256(folder, os.fsdecode(name)) != expected[name]
    ]
    yield from problems("manifest", texts, f"all {len(expected):,} files are the ones in the detached manifest")


def _sha256(folder: Path, name: str) -> str:
    with os.fdopen(limits.open_plain(folder, os.path.normpath(name), limits.ROW), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(digest: str, name: bytes) -> bytes:
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != name else b"") + f"{digest}  ".encode() + escaped + b"\n"


def _unescape(name: bytes) -> bytes:
    meaning = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}
    return re.sub(rb"\\[\\nr]", lambda m: meaning[m[0]], name)


def _show(name: bytes) -> str:
    return os.fsdecode(name)
