"""Runs at and below folders, patterns and URLs; whatever else lies beside them hides none."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from glob import escape, glob
from typing import TYPE_CHECKING

import fsspec

from gradlog.analysis.reading.store.metadata import Metadata, read_metadata
from gradlog.analysis.reading.store.stores import answering, get, open_store
from gradlog.errors import CorruptRunError, GradlogError, NotARunError
from gradlog.format import limits
from gradlog.format.header import ROOT_KEY
from gradlog.format.names import META

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

DEEPEST, BEHIND_LINKS = 64, 3
"""Folders in each other that are looked through for runs, and those behind a link, which may point anywhere."""

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that could not be analyzed: where, what went wrong, and the class of the error."""

    path: str
    error: str
    type: str

    @classmethod
    def of(cls, path: str, error: BaseException) -> Failure:
        """Take over what was raised, its text in one line."""
        return cls(path, " ".join(str(error).split()), type(error).__name__)


def find(paths: Paths) -> tuple[list[str], list[Failure]]:
    """List the runs at or under each path or pattern, each once, sorted; and the paths that hold none."""
    found: dict[str, None] = {}
    failed: list[Failure] = []
    for path in (os.path.expanduser(os.fspath(p)) for p in _several(paths)):
        before = len(failed)
        try:
            with answering(path):
                here = sorted(_find(path, failed))
        except (OSError, ValueError, ImportError) as error:
            failed.append(Failure.of(path, error))
            continue
        if not here and len(failed) == before:
            failed.append(Failure.of(path, NotARunError("no run in there")))
        found |= dict.fromkeys(here)
    return list(found), failed


def the_one(paths: Sequence[str]) -> Metadata | None:
    """Metadata of the run that this asks for; None where it asks for an archive.

    An archive is several paths, a pattern, or a place that holds runs and is none.

    Raises
    ------
    NotARunError, CorruptRunError
        As ``open_run`` does, where it asks for one.
    """
    if len(paths) != 1:
        return None
    try:
        return read_metadata(paths[0])
    except NotARunError:
        if paths[0].endswith(".zip") or not (_is_pattern(paths[0]) or find(paths)[0]):
            raise
        return None


def _is_pattern(path: str) -> bool:
    return any(c in path for c in "*?[") and ("://" in path or not os.path.exists(path))


def _several(paths: Paths) -> list[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _find(path: str, failed: list[Failure]) -> list[str]:
    if "://" not in path:
        if not _is_pattern(path) and not os.path.exists(path):
            raise NotARunError("no such file or folder")
        places = glob(_literal(path), recursive=True) if _is_pattern(path) else [path.rstrip("/") or "/"]
        return [run for place in places for run in _local_runs(place, failed)]
    filesystem, root = fsspec.core.url_to_fs(path)
    filesystem.invalidate_cache()  # listings are shared in this process, and archives grow
    places = filesystem.glob(root) if _is_pattern(path) else [root]
    return [filesystem.unstrip_protocol(run) for place in places for run in _under(filesystem, place)]


def _literal(path: str) -> str:
    """Pattern in which folders that are there under these very names stand for themselves.

    >>> _literal("/tmp/*.zarr")
    '/tmp/*.zarr'
    """
    place, parts = "", path.split("/")
    for i, part in enumerate(parts):
        place = f"{place}/{part}" if i else part
        if os.path.lexists(place):
            parts[i] = escape(part)
    return "/".join(parts)


def _local_runs(place: str, failed: list[Failure]) -> Iterator[str]:
    """List runs at a local place or below it; a run's own folders are not looked into, unreadable ones are named.

    A run that a link leads to counts as well, and so do those a little below such a link, each once.
    """
    seen: set[str] = set()
    direct, linked = [(place, DEEPEST)], list[tuple[str, int]]()
    while direct or linked:
        here, depth = (direct or linked).pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            if _is_local_run(here) or (here.endswith(".zip") and (here == place or _holds_run(here))):
                yield here
            elif depth and os.path.isdir(here):
                with os.scandir(here) as entries:
                    inside = [e for e in entries if e.name.endswith(".zip") or os.path.isdir(e.path)]
                for entry in [e for e in inside if not e.name.startswith(".")]:
                    link = entry.is_symlink()
                    (linked if link else direct).append((entry.path, min(depth - 1, BEHIND_LINKS if link else DEEPEST)))
        except OSError as error:
            failed.append(Failure.of(here, error))


def _is_local_run(place: str) -> bool:
    try:
        return _names_a_run(limits.read_plain(place, META))
    except CorruptRunError:
        return True  # for the reader to say what is wrong with it
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False


def _holds_run(path: str) -> bool:
    """Whether a zip file holds a run, or is too damaged to tell; there may be any other beside the runs."""
    try:
        store, prefix = open_store(path)
        return get(store, prefix + META) is not None
    except NotARunError:
        return False
    except GradlogError:
        return True


def _under(filesystem: AbstractFileSystem, place: str) -> list[str]:
    """List runs at a place behind a URL or below it; a run's own folders are not looked into."""
    if place.endswith(".zip") or _is_run(filesystem, place):
        return [place]
    found = []
    for entry in filesystem.ls(place, detail=True):
        name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
        if entry["type"] == "directory" and not name.startswith("."):
            found += _under(filesystem, f"{place.rstrip('/')}/{name}")
    return found


def _is_run(filesystem: AbstractFileSystem, place: str) -> bool:
    try:
        return _names_a_run(filesystem.cat_file(f"{place.rstrip('/')}/{META}", start=0, end=limits.METADATA + 1))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except CorruptRunError:
        return True  # for the reader to say what is wrong with it


def _names_a_run(metadata: bytes) -> bool:
    attributes = limits.parse_object(metadata, META).get("attributes")
    return isinstance(attributes, dict) and ROOT_KEY in attributes
