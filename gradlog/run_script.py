"""Record a torch script that knows nothing of gradlog: the engine behind ``gradlog run``.

torch calls global hooks before each step of any optimizer. The first call for an optimizer attaches a run to it; the
script runs in this process as ``python script.py`` would run it, and its exit status, exceptions and signals are its
own. Processes that the script starts are its own too, and not recorded.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import io
import os
import runpy
import sys
import tempfile
import threading
import types
import weakref
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlog.errors import MissingDependencyError, RunExistsError, UnusableInputError
from gradlog.integrations import numbered
from gradlog.logger import Logger
from gradlog.schema import META
from gradlog.sink import open_sink
from gradlog.store import read_root


class ScriptRecorder:
    """Attaches a run to every optimizer that steps.

    Parameters
    ----------
    path : str or path-like
        Store of the first optimizer, a folder or a URL; those of others get ``-2``, ``-3`` before the suffix.
    **options
        As for :func:`gradlog.open`.

    Attributes
    ----------
    runs : list of (str, Logger)
        Where each optimizer's run is, in the order of their first steps; those that could not be opened are left out.
    stepped : bool
        Whether any optimizer took a step.

    Raises
    ------
    MissingDependencyError
        torch is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        try:
            from torch.optim.optimizer import register_optimizer_step_pre_hook
        except ImportError as error:
            raise MissingDependencyError(
                "gradlog run records torch scripts, and torch is not installed here: pip install torch"
            ) from error
        self.runs: list[tuple[str, Logger]] = []
        self.stepped = False
        self._path, self._options = os.fspath(path), options
        self._seen: list[weakref.ref[Any]] = []
        self._recorded: list[tuple[weakref.ref[Any], Logger]] = []
        self._pid = os.getpid()
        self._handle = register_optimizer_step_pre_hook(self._first_step)

    def _first_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if os.getpid() != self._pid or any(known() is optimizer for known in self._seen):
            return
        self._close_abandoned()
        self.stepped = True
        self._seen.append(weakref.ref(optimizer))
        path = numbered(self._path, len(self._seen))
        try:
            from gradlog.integrations.torch import attach

            logger = attach(optimizer, path, model=model_of(optimizer), **self._options)
        except Exception as error:  # whatever it is, the script goes on
            print(f"gradlog: {type(optimizer).__name__} is not recorded: {error}", file=sys.stderr)
            return
        if logger.header is not None:
            self.runs.append((path, logger))
            self._recorded.append((weakref.ref(optimizer), logger))

    def _close_abandoned(self) -> None:
        """End the runs of optimizers that the script has let go of: a search over settings makes many."""
        for optimizer, logger in self._recorded:
            if optimizer() is None:
                logger.close()
        self._recorded = [(o, log) for o, log in self._recorded if o() is not None]

    def close(self) -> None:
        """Take the hook off and end the runs."""
        self._handle.remove()
        for _, logger in self.runs:
            logger.close()
        self._seen, self._recorded = [], []


def model_of(optimizer: Any) -> Any:
    """Find the module whose parameters these are: the smallest that holds most of them; None if there is none."""
    import torch

    held = {id(p) for group in optimizer.param_groups for p in group["params"]}

    def merit(module: Any) -> tuple[int, int]:
        mine = sum(id(p) in held for p in module.parameters())
        return mine, -sum(1 for _ in module.modules())

    # type(), since isinstance() would wake lazy proxies that pretend to be of another class
    modules = [m for m in gc.get_objects() if issubclass(type(m), torch.nn.Module)]
    best = max(modules, key=merit, default=None)
    return best if best is not None and merit(best)[0] else None


def run_script(target: str, args: Sequence[str], path: str, *, module: bool = False, **options: Any) -> ScriptRecorder:
    """Run a script, or a module, as the main program and record its optimizers.

    Parameters
    ----------
    target : str
        Path of the script, or of a folder or zip archive with a ``__main__.py``; or name of the module.
    args : sequence of str
        Its arguments.
    path : str
        Store of the run, a folder or a URL.
    module : bool
        Run ``target`` as ``python -m`` would.
    **options
        As for :func:`gradlog.open`.

    Returns
    -------
    ScriptRecorder
        With the runs that were written, closed.

    Raises
    ------
    SystemExit, BaseException
        Whatever the script raises, after the runs are closed; its ``recorder`` is then the :class:`ScriptRecorder`.
    """
    recorder = ScriptRecorder(path, **options)
    argv, search = sys.argv[:], sys.path[:]
    sys.argv = [target, *args]
    packed = not module and (os.path.isdir(target) or zipfile.is_zipfile(target))
    sys.path[0] = os.getcwd() if module else str(Path(target).resolve() if packed else Path(target).resolve().parent)
    try:
        if module:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        elif packed:
            runpy.run_path(target, run_name="__main__")
        else:
            _run_file(target)
    except BaseException as stop:
        stop.recorder = recorder  # type: ignore[attr-defined]  # taken along to whoever reports
        raise
    finally:
        _join_threads()
        recorder.close()
        sys.argv[:], sys.path[:] = argv, search
    return recorder


def _run_file(target: str) -> None:
    """Execute a file as the main module, which it stays: pickling and threads may look for it later."""
    path = os.path.abspath(target)
    main = types.ModuleType("__main__")
    vars(main).update(__file__=path, __builtins__=builtins, __cached__=None)
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    sys.modules["__main__"] = main
    exec(code, vars(main))


def _join_threads() -> None:
    """Wait, as the interpreter does at its end, for threads that may still be training."""
    for thread in threading.enumerate():
        if not thread.daemon and thread not in (threading.main_thread(), threading.current_thread()):
            thread.join()


def require_place(path: str, mode: str) -> None:
    """Refuse a place that cannot take the run, before the script has begun.

    Parameters
    ----------
    path : str
        Where the run shall go, a folder or a URL.
    mode : {"w-", "a", "w"}
        As for :func:`gradlog.open`.

    Raises
    ------
    RunExistsError
        A run is there and ``mode`` is "w-", or something that is no run is there.
    CorruptRunError, NewerFormatError
        The run that is there cannot be continued or replaced.
    PermissionError
        The file system lets no folder be made there.
    StoreUnavailableError, MissingDependencyError, UnusableInputError
        The object store does not answer, its client is not installed, or the URL is of no known kind.
    """
    try:
        sink = open_sink(path)
    except ValueError as error:  # fsspec's, on the URL
        raise UnusableInputError(f"{path}: {error}; expected a folder or a URL such as s3://bucket/run.zarr") from error
    if sink.local is None:
        with contextlib.suppress(FileNotFoundError):
            sink.get(META)
            if mode == "w-":
                raise _taken(path)
    elif sink.local.exists():
        if not (sink.local / META).is_file():
            if not sink.local.is_dir() or any(sink.local.iterdir()):
                raise RunExistsError(f"{path} exists and is no gradlog run; choose another path")
        elif mode == "w-":
            raise _taken(path)
        else:
            read_root(sink)
    else:
        folder = next(p for p in sink.local.parents if p.exists())
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise PermissionError(f"{path}: {folder} takes no files ({error.strerror}); choose another path") from error


def _taken(path: str) -> RunExistsError:
    return RunExistsError(f"{path} exists; pass --append to continue it, --force to replace it")


def first_rank() -> bool:
    """Whether this process is the first, or the only one, of those that ``torchrun`` has started."""
    return os.environ.get("RANK", "0") == "0"


def default_path(target: str, folder: Path | None = None) -> Path:
    """Name the run after the script: ``train.zarr``, or the first free ``train-2.zarr``, ``train-3.zarr``.

    >>> default_path("/tmp/nowhere/train.py", Path("/tmp/nowhere")).name
    'train.zarr'
    """
    is_file = target.endswith((".py", ".zip", ".pyz")) or os.path.exists(target)
    stem = Path(target).resolve().stem if is_file else target.rpartition(".")[2]
    folder = Path.cwd() if folder is None else folder
    path, n = folder / f"{stem}.zarr", 1
    while path.exists():
        n += 1
        path = folder / f"{stem}-{n}.zarr"
    return path
