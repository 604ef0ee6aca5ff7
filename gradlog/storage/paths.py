"""Names of stores: absolute, numbered where a name is taken, and as a shell takes them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from gradlog.errors import NotARunError

SUFFIX = ".zarr"


def is_url(path: str) -> bool:
    """Whether this is an fsspec URL of a store elsewhere; ``file://`` is a local path."""
    return "://" in path and not path.startswith("file://")


def absolute(path: str | os.PathLike[str]) -> str:
    """Path that stays the same when the process changes its folder; ``~`` is the home folder. URLs stay as they are.

    >>> absolute("/data/run.zarr/"), absolute("s3://bucket/run.zarr")
    ('/data/run.zarr', 's3://bucket/run.zarr')
    """
    text = os.fsdecode(path)
    if is_url(text):
        return text.rstrip("/")
    return str(Path(os.path.expanduser(text.removeprefix("file://"))).absolute())


def refuse_a_file(path: str | os.PathLike[str]) -> None:
    """Raise NotARunError where a file is in the place of a run's folder, an archive of a run say."""
    text = absolute(path)
    if not is_url(text) and os.path.isfile(text):
        raise NotARunError(f"{text}: a file; expected the folder of a run (unpack an archive first)")


def of_run(path: str, n: int) -> str:
    """Store of the n-th run of one name, counted from 1.

    >>> of_run("train.zarr", 1), of_run("s3://bucket/train.zarr", 2)
    ('train.zarr', 's3://bucket/train-2.zarr')
    """
    return path if n == 1 else _extended(path, f"-{n}")


def of_optimizer(path: str, n: int) -> str:
    """Store of the n-th optimizer of one run, counted from 1. No number of a run makes the same name.

    >>> of_optimizer("gan.zarr", 1), of_optimizer("s3://bucket/gan-2.zarr", 2)
    ('gan.zarr', 's3://bucket/gan-2.optimizer2.zarr')
    """
    return path if n == 1 else _extended(path, f".optimizer{n}")


def shown(path: str, folder: str | None = None) -> str:
    """Path as a shell in ``folder`` takes it: relative where it lies below, and quoted where it must be.

    >>> shown("/data/my runs/a.zarr", "/data"), shown("/elsewhere/a.zarr", "/data")
    ("'my runs/a.zarr'", '/elsewhere/a.zarr')
    """
    folder = os.getcwd() if folder is None else folder
    below = not is_url(path) and os.path.commonpath([folder, absolute(path)]) == folder
    short = os.path.relpath(path, folder) if below else path
    return shlex.quote(f"./{short}" if short.startswith("-") else short)


def _extended(path: str, addition: str) -> str:
    path = path.rstrip("/")
    suffix = SUFFIX if path.endswith(SUFFIX) else ""
    return f"{path.removesuffix(suffix)}{addition}{suffix}"
