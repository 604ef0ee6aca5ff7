"""The files of a run that somebody handed over, looked at before any of them is opened.

A link may point anywhere, a pipe blocks its reader, a device never ends: only plain files and folders pass.
"""

from __future__ import annotations

import os
from pathlib import Path

from gradlog.errors import NotARunError, UnsupportedError
from gradlog.format import limits
from gradlog.format.names import META


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
