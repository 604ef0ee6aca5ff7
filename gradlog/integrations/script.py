"""Record a torch script that knows nothing of gradlog: the engine behind ``gradlog run``.

torch calls global hooks before each step of any optimizer. The first call for an optimizer attaches a run to it; the
script runs in this process as ``python script.py`` would run it, and its exit status, exceptions and signals are its
own. Processes that the script starts are its own too, and not recorded.
"""

from __future__ import annotations

import builtins
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
from typing import TYPE_CHECKING, Unpack

from gradlog.errors import GradlogError, MissingDependencyError, RunExistsError, UnusableInputError
from gradlog.recorder import earlier_runs
from gradlog.recorder.logger import Logger
from gradlog.recorder.options import HookKeywords, Mode, RecordingOptions
from gradlog.recorder.provenance import ended_by
from gradlog.storage.commit import read_root
from gradlog.storage.paths import SUFFIX, absolute, of_optimizer
from gradlog.storage.sink import open_sink

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from gradlog.integrations.torch.types import Gradients, Tensors


class ScriptRecorder:
    """Attaches a run to every optimizer that steps.

    Parameters
    ----------
    path : str or path-like
        Store of the first optimizer, a folder or a URL; those of others get ``.optimizer2``, ``.optimizer3`` before
        the suffix.
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

    def __init__(self, path: str | os.PathLike[str], **options: Unpack[HookKeywords]) -> None:
        try:
            from torch.optim.optimizer import register_optimizer_step_pre_hook
        except ImportError as error:
            raise MissingDependencyError(
                "gradlog run records torch scripts, and torch is not installed here: pip install torch"
            ) from error
        self.runs: list[tuple[str, Logger]] = []
        self.stepped = False
        self._path, self._options = absolute(path), RecordingOptions.of(None, options)
        self._seen: list[weakref.ref[Optimizer]] = []
        self._recorded: list[tuple[weakref.ref[Optimizer], Logger]] = []
        self._pid = os.getpid()
        self._compiled: dict[int, weakref.ref[Optimizer]] = {}
        from gradlog.integrations.torch import compiled
        from gradlog.integrations.torch.patches import every_step

        every_step.stay(True)  # this hook attaches and closes, in the middle of a step

        self._torch, self._key = compiled, compiled.listen(self)
        self._handle = register_optimizer_step_pre_hook(self._before_step)

    def _before_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        first = [p for group in optimizer.param_groups for p in group["params"]][:1]
        if self._torch.compiling() and self._torch.plain(first):
            self._torch.tell(self._key, "step", first)
        else:
            self._first_step(optimizer)

    def told(self, event: str, params: Tensors, grads: Gradients, numbers: Tensors) -> None:
        """Find the optimizer whose step is compiled, by its first parameter; it is recorded from the next step on."""
        from torch.optim import Optimizer

        place = params[0].data_ptr()
        if place in self._compiled and self._compiled[place]() is not None:
            return
        for one in gc.get_objects():
            if issubclass(type(one), Optimizer) and getattr(one, "param_groups", None):
                first = next((p for group in one.param_groups for p in group["params"]), None)
                if first is not None and first.data_ptr() == place:
                    self._compiled[place] = weakref.ref(one)
                    self._first_step(one)

    def _first_step(self, optimizer: Optimizer) -> None:
        if os.getpid() != self._pid or any(known() is optimizer for known in self._seen):
            return
        self._close_abandoned()
        self.stepped = True
        self._seen.append(weakref.ref(optimizer))
        try:
            place = of_optimizer(self._path, len(self._seen)) if first_rank() else ""  # the others write to rank 0's
            logger = self._attached(optimizer, place)
        except Exception as error:  # whatever it is, the script goes on
            print(f"gradlog: {type(optimizer).__name__} is not recorded: {error}", file=sys.stderr)
            return
        if logger.header is not None:
            if len(self._seen) == 1:
                self._path = logger.path  # its number counts for the other optimizers, too
            self.runs.append((logger.path, logger))
            self._recorded.append((weakref.ref(optimizer), logger))

    def _attached(self, optimizer: Optimizer, path: str) -> Logger:
        """Attach, beginning at the step that the user names, or that the optimizer has counted to."""
        from gradlog.integrations.torch.attachment import attach
        from gradlog.integrations.torch.modules import modules_of
        from gradlog.integrations.torch.optimizer import counted

        known = self._options.first_step is not None
        steps = 0 if known else counted(optimizer)
        options = self._options.filled(first_step=steps) if steps else self._options
        logger = attach(optimizer, path, model=modules_of(optimizer), options=options)
        begins = logger.state_dict().get("step", 0)
        if begins and not known:
            why = "which the optimizer has counted" if steps else "after the last row"
            hint = "" if steps else "; after a resume from an earlier checkpoint, name the step with --from-step N"
            print(f"gradlog: {os.path.basename(path)} goes on at step {begins:,}, {why}{hint}", file=sys.stderr)
        return logger

    def _close_abandoned(self) -> None:
        """End the runs of optimizers that the script has let go of: a search over settings makes many."""
        for optimizer, logger in self._recorded:
            if optimizer() is None:
                logger.close()
        self._recorded = [(o, log) for o, log in self._recorded if o() is not None]

    def close(self, reason: str = "") -> None:
        """Take the hook off and end the runs; ``reason`` as of :meth:`gradlog.Logger.close`."""
        from gradlog.integrations.torch.patches import every_step

        self._handle.remove()
        every_step.stay(False)
        for _, logger in self.runs:
            logger.close(reason)
        self._seen, self._recorded = [], []


def run_script(
    target: str, args: Sequence[str], path: str, *, module: bool = False, **options: Unpack[HookKeywords]
) -> ScriptRecorder:
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
    recorder, reason = ScriptRecorder(path, **options), ""
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
        reason = ended_by(stop)
        raise
    finally:
        _join_threads()
        recorder.close(reason)
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
