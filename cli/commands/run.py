"""``gradlog run``: record a torch script without touching it."""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import sys
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

import click

from gradlog.analysis.common.text import counted
from gradlog.cli import options
from gradlog.cli.plain_text import printable
from gradlog.errors import GradlogWarning

if TYPE_CHECKING:
    from gradlog.integrations.script import ScriptRecorder
    from gradlog.integrations.torch.optimizers.together import Choice
    from gradlog.recorder.options import HookKeywords, Mode

recorded = options.under("What is recorded")


@options.command(
    "gradlog run train.py --epochs 3",
    "gradlog run -o a.zarr -m package.train --lr 0.1",
    "torchrun --nproc-per-node 2 -m gradlog run train.py",
    context_settings={"allow_interspersed_args": False},
)
@options.selected("-m", "--module", is_flag=True, help="SCRIPT is the name of a module, as in python -m.")
@recorded("--k", type=click.IntRange(1, 2**20), default=256, metavar="N", help="Numbers stored per group.")
@recorded("--groups", type=click.Choice(["blocks", "all", "tensors"]), default="blocks",
          help="Which parameters share a sketch.")  # fmt: skip
@recorded("--include", multiple=True, metavar="REGEX",
          help="Record only parameters in whose name this, or another --include, is found.")  # fmt: skip
@recorded("--exclude", multiple=True, metavar="REGEX", help="Leave out parameters in whose name this is found.")
@recorded("--every", type=click.IntRange(1), default=1, metavar="N", help="Record every N-th step.")
@recorded("--theta-every", type=click.IntRange(0), default=0, metavar="N",
          help="Keep a sketch of the parameters every N steps; 0: at the start and the end.")  # fmt: skip
@recorded("--norms-every", type=click.IntRange(0), default=0, metavar="N",
          help="Record norms of the parameters and of their change every N steps; 0: never.")  # fmt: skip
@recorded("--stage", type=click.Choice(["consumed", "preclip"]), default="consumed",
          help="Record the gradient after clipping, or before.")  # fmt: skip
@recorded("--what", type=click.Choice(["gradient", "update", "both"]), default="gradient",
          help="Record gradients, the change of the parameters in each step, or both.")  # fmt: skip
@recorded("--seed", type=int, default=0, metavar="N", help="Seed of the sketch's random map.")
@recorded("--optimizers", type=click.Choice(["auto", "together", "separate"]), default="auto",
          help="Which optimizers make one run: those that step between the same backward passes, all of them, or "
          "each its own.")  # fmt: skip
@recorded("--from-step", "first_step", type=click.IntRange(0), metavar="N",
          help="Number of the first step, after a resume. Default: what the optimizer has counted; if it does "
          "not count, steps go on from the last row.")  # fmt: skip
@recorded("--no-argv", is_flag=True, help="Do not store the command line. (Its secrets are masked anyway.)")
@options.output("-o", "--output", metavar="RUN.zarr",
                help="Folder or URL to record to. Default: the script's name, in the current folder.")  # fmt: skip
@options.output("--new", is_flag=True, help="Record beside an existing run, to train-2.zarr. Default without -o.")
@options.output("--append", is_flag=True, help="Continue the newest run in a new segment.")
@options.output("--force", is_flag=True, help="Replace the newest run.")
@click.argument("script")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def run(
    output: str | None, module: bool, new: bool, append: bool, force: bool, no_argv: bool,
    optimizers: Choice, script: str, args: tuple[str, ...], **recording: Unpack[HookKeywords],
) -> None:  # fmt: skip
    """Run SCRIPT with ARGS as python does, and record every torch optimizer in it.

    Optimizers that step together, such as Muon and AdamW, make one run. Optimizers that take turns get runs of their
    own, in the order of their first steps: train.zarr, train.optimizer2.zarr. If you start the script again, it records
    to train-2.zarr. Exit status and signals are the script's own.
    """
    if not module and not Path(script).exists():
        raise click.UsageError(f"no script {script!r}")
    modes: dict[Mode, bool] = {"new": new, "a": append, "w": force}
    asked = [mode for mode, wanted in modes.items() if wanted]
    if len(asked) > 1:
        raise click.UsageError("--new, --append and --force exclude each other")
    from gradlog.integrations.script import run_script
    from gradlog.integrations.script_place import choose_place, first_rank

    path, recording["mode"] = choose_place(script, output, *asked) if first_rank() else (output or script, "w-")
    recording["argv"] = not no_argv
    recording["what"] = ("gradient", "update") if recording["what"] == "both" else recording["what"]
    for option in ("include", "exclude"):
        recording[option] = recording[option] or None  # click gives an empty tuple where there is none
    folder = os.getcwd()
    warnings.showwarning = warnings._showwarning_orig  # type: ignore[attr-defined]  # the script's warnings look as ever
    warnings.filterwarnings("ignore", category=GradlogWarning)  # ours are in the log, which this command shows
    try:
        _tell_next(run_script(script, args, path, module=module, optimizers=optimizers, **recording), folder)
    except BaseException as stop:
        if not hasattr(stop, "recorder"):
            raise
        _tell_next(stop.recorder, folder)
        _pass_through(stop)


def _tell_next(recorder: ScriptRecorder, folder: str) -> None:
    """Name the runs as a shell in ``folder`` takes them, wherever the script has gone."""
    from gradlog.storage.paths import shown

    for path, logger in recorder.runs:
        name = printable(shown(path, folder))
        note = f" (ended early: {printable(logger.reason)})" if logger.reason else ""
        then = f"; next: gradlog analyze {name}" if logger.rows > 1 else f" with {counted(logger.rows, 'row')}"
        click.echo(f"gradlog: recorded {name}{note}{then}", err=True)
    from gradlog.integrations.script_place import first_rank

    if not recorder.runs and first_rank():
        why = "for the reason above" if recorder.stepped else "no torch optimizer took a step"
        click.echo(f"gradlog: nothing was recorded: {why}", err=True)


def _pass_through(stop: BaseException) -> None:
    """End as ``python script.py`` would have ended."""
    if isinstance(stop, SystemExit):
        raise stop
    trace = stop.__traceback__
    while trace is not None and _ours(trace) and (trace.tb_next or isinstance(stop, SyntaxError)):
        trace = trace.tb_next  # a script that cannot be compiled has no frame of its own
    sys.excepthook(type(stop), stop.with_traceback(trace), trace)
    if isinstance(stop, KeyboardInterrupt):
        atexit._run_exitfuncs()  # which the interpreter does, too, before it dies of the signal
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    raise SystemExit(1)


def _ours(trace: TracebackType) -> bool:
    from gradlog.integrations.script import run_script

    ours = __file__, run_script.__code__.co_filename, "<frozen runpy>", runpy.__file__
    return trace.tb_frame.f_code.co_filename in ours
