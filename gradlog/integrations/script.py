"""Record a torch script that knows nothing of gradlog: the engine behind ``gradlog run``.

The first steps of optimizers tell which of them step together, and a run is attached to them. The script runs in this
process as ``python script.py`` would run it, and its exit status, exceptions and signals are its own. Processes that
the script starts are its own too, and not recorded.
"""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
import threading
import types
import weakref
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from gradlog.errors import MissingDependencyError
from gradlog.integrations.script_place import first_rank
from gradlog.recorder.logger import Logger
from gradlog.recorder.options import HookKeywords, RecordingOptions
from gradlog.recorder.provenance import ended_by
from gradlog.storage.paths import absolute, of_optimizer

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from gradlog.integrations.torch.optimizers.together import Choice, First


class ScriptRecorder:
    """Attaches runs to the optimizers that step.

    Parameters
    ----------
    path : str or path-like
        Store of the first run, a folder or a URL; those of others get ``.optimizer2``, ``.optimizer3`` before the
        suffix.
    optimizers : {"auto", "together", "separate"}
        Which make one run: those that step between the same backward passes; all; or each its own.
    **options
        As for :func:`gradlog.open`.

    Attributes
    ----------
    runs : list of (str, Logger)
        Where the runs are, in the order of their first steps; those that could not be opened are left out.

    Raises
    ------
    MissingDependencyError
        torch is not installed.
    """

    def __init__(
        self, path: str | os.PathLike[str], optimizers: Choice = "auto", **options: Unpack[HookKeywords]
    ) -> None:
        try:
            import torch  # noqa: F401  # only whether it is there
        except ImportError as error:
            raise MissingDependencyError(
                "gradlog run records torch scripts, and torch is not installed here: pip install torch"
            ) from error
        from gradlog.integrations.torch.optimizers.arrivals import Arrivals

        self.runs: list[tuple[str, Logger]] = []
        self._path, self._options = absolute(path), RecordingOptions.of(None, options)
        self._tried = 0
        self._recorded: list[tuple[list[weakref.ref[Optimizer]], Logger]] = []
        self._arrivals = Arrivals(optimizers, self._begin)

    @property
    def stepped(self) -> bool:
        """Whether any optimizer took a step."""
        return self._arrivals.stepped

    def _begin(self, run: list[First]) -> None:
        self._close_abandoned()
        self._tried += 1
        try:
            place = of_optimizer(self._path, self._tried) if first_rank() else ""  # the others write to rank 0's
            logger = self._attached(run, place)
        except Exception as error:  # whatever it is, the script goes on
            names = " and ".join(dict.fromkeys(type(first.optimizer).__name__ for first in run))
            print(f"gradlog: {names}: not recorded: {error}", file=sys.stderr)
            return
        if logger.header is not None:
            if self._tried == 1:
                self._path = logger.path  # its number counts for the other runs, too
            self.runs.append((logger.path, logger))
            self._recorded.append(([weakref.ref(first.optimizer) for first in run], logger))

    def _attached(self, run: list[First], path: str) -> Logger:
        """Attach, beginning at the step that the user names, or that the optimizers have counted to."""
        from gradlog.integrations.torch.attachment import record
        from gradlog.integrations.torch.optimizers.modules import modules_of
        from gradlog.integrations.torch.optimizers.optimizer import named_optimizers

        optimizers = [first.optimizer for first in run]
        named = named_optimizers(optimizers if len(run) > 1 else optimizers[0])
        known = self._options.first_step is not None
        steps = 0 if known else max(first.counted for first in run)
        options = self._options.filled(first_step=steps) if steps else self._options
        logger = record(named, path, modules_of(*optimizers), options, [first.moment for first in run])
        held = all(first.moment is not None for first in run)  # then the first row is written
        begins = logger.state_dict().get("step", 0) - held
        if begins and not known:
            why = "which the optimizer has counted" if steps else "after the last row"
            hint = "" if steps else "; after a resume from an earlier checkpoint, name the step with --from-step N"
            print(f"gradlog: {os.path.basename(path)} goes on at step {begins:,}, {why}{hint}", file=sys.stderr)
        if len(run) > 1 and logger.header is not None:
            names = ", ".join(dict.fromkeys(name or type(one).__name__ for name, one in named))
            print(
                f"gradlog: {len(run)} optimizers ({names}) step together and make one run; "
                "--optimizers separate records each in its own",
                file=sys.stderr,
            )
        return logger

    def _close_abandoned(self) -> None:
        """End the runs of optimizers that the script has let go of: a search over settings makes many."""
        for recorded in self._recorded[:]:
            if all(one() is None for one in recorded[0]):
                recorded[1].close()
                self._recorded.remove(recorded)

    def close(self, reason: str = "") -> None:
        """Take the hook off and end the runs; ``reason`` as of :meth:`gradlog.Logger.close`."""
        self._arrivals.close()
        for _, logger in self.runs:
            logger.close(reason)
        self._recorded = []


def run_script(
    target: str,
    args: Sequence[str],
    path: str,
    *,
    module: bool = False,
    optimizers: Choice = "auto",
    **options: Unpack[HookKeywords],
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
    optimizers : {"auto", "together", "separate"}
        Which make one run, as of :class:`ScriptRecorder`.
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
    recorder, reason = ScriptRecorder(path, optimizers, **options), ""
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
