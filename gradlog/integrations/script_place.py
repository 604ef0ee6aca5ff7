"""Where ``gradlog run`` records to: found out, and refused, before the script begins."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from gradlog.errors import GradlogError, RunExistsError, UnusableInputError
from gradlog.recorder import earlier_runs
from gradlog.recorder.options import Mode
from gradlog.storage.commit import read_root
from gradlog.storage.paths import SUFFIX, absolute
from gradlog.storage.sink import open_sink


def choose_place(target: str, output: str | None, mode: Mode | None = None) -> tuple[str, Mode]:
    """Decide where the run goes.

    Parameters
    ----------
    target : str
        The script or module. Without ``output`` the run is named after it, in the current folder.
    output : str, optional
        A folder or a URL.
    mode : {"new", "a", "w"}, optional
        Asked for by the user. Default: refuse a run at ``output``; without ``output`` number the new one.

    Returns
    -------
    path, mode : str
        Absolute, and as for :func:`gradlog.open`. Without ``output``, the run to continue or to replace is the newest.

    Raises
    ------
    RunExistsError, CorruptRunError, NewerFormatError, PermissionError, StoreUnavailableError, MissingDependencyError, \
    UnusableInputError
        The place cannot take the run, found out before the script has begun.
    """
    path = absolute(output or default_name(target))
    if output is None:
        mode = mode or "new"
        path = earlier_runs.newest(path) if mode in ("a", "w") else path
    try:
        if mode == "new":
            path = earlier_runs.first_free(path)
        require_place(path, mode or "w-")
    except ValueError as error:
        if isinstance(error, GradlogError):
            raise
        text = f"{path}: {error}; expected a folder or a URL such as s3://bucket/run.zarr"  # fsspec's, on the URL
        raise UnusableInputError(text) from error
    return path, mode or "w-"


def require_place(path: str, mode: str) -> None:
    """Refuse a place that cannot take the run. Raises as :func:`choose_place` does."""
    sink = open_sink(path)
    there = earlier_runs.holds_run(path)
    if mode == "w-" and (taken := path if there else earlier_runs.further(path)):
        raise RunExistsError(
            f"{taken} exists; pass --append to continue it, --force to replace it, --new to record beside it"
        )
    if there:
        read_root(sink)
    elif sink.local is not None and sink.local.exists():
        if not sink.local.is_dir() or any(sink.local.iterdir()):
            raise RunExistsError(f"{path} exists and is no gradlog run; choose another path")
    elif sink.local is not None:
        folder = next(p for p in sink.local.parents if p.exists())
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise PermissionError(f"{path}: {folder} takes no files ({error.strerror}); choose another path") from error


def first_rank() -> bool:
    """Whether this process is the first, or the only one, of those that ``torchrun`` has started."""
    return os.environ.get("RANK", "0") == "0"


def default_name(target: str) -> str:
    """Name the run after the script or module.

    >>> default_name("somewhere/train.py"), default_name("package.train")
    ('train.zarr', 'train.zarr')
    """
    is_file = target.endswith((".py", ".zip", ".pyz")) or os.path.exists(target)
    return (Path(target).resolve().stem if is_file else target.rpartition(".")[2]) + SUFFIX
