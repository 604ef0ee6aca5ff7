"""Record a torch script that knows nothing of gradlog: the engine behind ``gradlog run``.

torch calls global hooks before each step of any optimizer. The first call for an optimizer attaches a run to it; the
script runs in this process as ``python script.py`` would run it, and its exit status, exceptions and signals are its
own.
"""

from __future__ import annotations

import gc
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlog.errors import GradlogError, MissingDependencyError
from gradlog.logger import Logger


class ScriptRecorder:
    """Attaches a run to every optimizer that steps.

    Parameters
    ----------
    path : Path
        Store of the first optimizer; those of others get ``-2``, ``-3`` before the suffix.
    **options
        As for :func:`gradlog.open`.

    Raises
    ------
    MissingDependencyError
        torch is not installed.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        try:
            from torch.optim.optimizer import register_optimizer_step_pre_hook
        except ImportError as error:
            raise MissingDependencyError(
                "gradlog run records torch scripts, and torch is not installed here: pip install torch"
            ) from error
        self.runs: list[tuple[Path, Logger]] = []
        self._path, self._options = path, options
        self._seen: list[Any] = []
        self._handle = register_optimizer_step_pre_hook(self._first_step)

    def _first_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if any(optimizer is known for known in self._seen):
            return
        self._seen.append(optimizer)
        from gradlog.integrations.torch import attach

        n = len(self._seen)
        path = self._path if n == 1 else self._path.with_name(f"{self._path.stem}-{n}{self._path.suffix}")
        try:
            logger = attach(optimizer, path, model=model_of(optimizer), **self._options)
        except (GradlogError, OSError, ValueError) as error:
            print(f"gradlog: {type(optimizer).__name__} is not recorded: {error}", file=sys.stderr)
            return
        if logger.header is not None:
            self.runs.append((path, logger))

    def close(self) -> None:
        """Take the hook off and end the runs."""
        self._handle.remove()
        for _, logger in self.runs:
            logger.close()
        self._seen.clear()


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


def run_script(target: str, args: Sequence[str], path: Path, *, module: bool = False, **options: Any) -> ScriptRecorder:
    """Run a script, or a module, as the main program and record its optimizers.

    Parameters
    ----------
    target : str
        Path of the script, or name of the module.
    args : sequence of str
        Its arguments.
    path : Path
        Store of the run.
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
    try:
        if module:
            sys.path.insert(0, os.getcwd())
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(target).resolve().parent))
            runpy.run_path(os.path.abspath(target), run_name="__main__")
    except BaseException as stop:
        stop.recorder = recorder  # type: ignore[attr-defined]
        raise
    finally:
        recorder.close()
        sys.argv[:], sys.path[:] = argv, search
    return recorder


def default_path(target: str, folder: Path | None = None) -> Path:
    """Name the run after the script: ``train.zarr``, or the first free ``train-2.zarr``, ``train-3.zarr``.

    >>> default_path("/tmp/nowhere/train.py", Path("/tmp/nowhere")).name
    'train.zarr'
    """
    stem = Path(target).stem if target.endswith(".py") else target.rpartition(".")[2]
    folder = Path.cwd() if folder is None else folder
    path, n = folder / f"{stem}.zarr", 1
    while path.exists():
        n += 1
        path = folder / f"{stem}-{n}.zarr"
    return path
