"""Runs that are there already under a name and its numbers: ``train.zarr``, ``train-2.zarr``, ..."""

from __future__ import annotations

import contextlib
import itertools
import os
import re

from gradlog.errors import GradlogError, StoreUnavailableError
from gradlog.format.names import META
from gradlog.storage.commit import read_root
from gradlog.storage.paths import SUFFIX, is_url, of_optimizer, of_run
from gradlog.storage.settings import Storage, first_answer
from gradlog.storage.sink import open_sink


def runs(path: str) -> list[str]:
    """List the runs of this name in the order of their numbers; of a URL those before the first free number.

    Of a store that does not answer, no run is known: opening one says so.
    """
    if is_url(path):
        known: list[str] = []
        with contextlib.suppress(StoreUnavailableError):
            known.extend(itertools.takewhile(_answers_with_run, (of_run(path, n) for n in itertools.count(1))))
        return known
    found = {int(match[1] or 1): name for match, name in _siblings(path, r"(?:-([1-9]\d*))?")}
    places = [os.path.join(os.path.dirname(path), found[n]) for n in sorted(found)]
    return [place for place in places if holds_run(place)]


def newest(path: str) -> str:
    """Run of this name with the highest number; ``path`` itself where there is none."""
    return (runs(path) or [path])[-1]


def with_uuid(path: str, uuid: str) -> str:
    """Run of this name that has this identity, as a checkpoint remembers it; ``path`` itself where there is none."""
    return next((place for place in runs(path) if _uuid(place) == uuid), path)


def first_free(path: str) -> str:
    """First number of this name under which neither a run nor a further optimizer's run is."""
    with contextlib.suppress(StoreUnavailableError):
        return next(place for place in (of_run(path, n) for n in itertools.count(1)) if not taken(place))
    return path


def taken(path: str) -> bool:
    """Whether something stands in the way of a run of this name, or of those of its further optimizers."""
    there = _answers_with_run(path) if is_url(path) else os.path.lexists(path)
    return there or further(path) is not None


def further(path: str) -> str | None:
    """Run of a further optimizer of this name; None if there is none. Of a URL, that of the second is looked for."""
    if is_url(path):
        second = of_optimizer(path, 2)
        return second if _answers_with_run(second) else None
    names = sorted(name for _, name in _siblings(path, r"\.optimizer\d+"))
    return os.path.join(os.path.dirname(path), names[0]) if names else None


def holds_run(path: str) -> bool:
    """Whether a run's metadata is there, readable or not."""
    sink = open_sink(path)
    if sink.local is not None:
        return (sink.local / META).is_file()
    try:
        sink.get(META)
    except FileNotFoundError:
        return False
    return True


def _answers_with_run(url: str) -> bool:
    """Whether a run is there. Raises StoreUnavailableError as of ``first_answer``."""
    storage = Storage()
    return first_answer(url, storage, storage.open_wait) is not None


def _siblings(path: str, addition: str) -> list[tuple[re.Match[str], str]]:
    """Names beside ``path`` that extend its stem by what the expression describes."""
    folder, name = os.path.split(path)
    suffix = SUFFIX if name.endswith(SUFFIX) else ""
    pattern = re.compile(f"{re.escape(name.removesuffix(suffix))}{addition}{re.escape(suffix)}")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [(match, name) for name in names if (match := pattern.fullmatch(name))]


def _uuid(path: str) -> str:
    try:
        return read_root(open_sink(path))[0].uuid
    except GradlogError:
        return ""
