"""The ``gradlog`` command. An error is one line and an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from gradlog.cli import stderr
from gradlog.cli.commands.analyze import analyze
from gradlog.cli.commands.audit import audit
from gradlog.cli.commands.compact import compact
from gradlog.cli.commands.compare import compare
from gradlog.cli.commands.events import events
from gradlog.cli.commands.export import export
from gradlog.cli.commands.info import info
from gradlog.cli.commands.recover import recover
from gradlog.cli.commands.report import report
from gradlog.cli.commands.run import run as record
from gradlog.cli.commands.watch import watch
from gradlog.cli.options import examples
from gradlog.cli.plain_text import printable
from gradlog.errors import GradlogError

BROKEN_PIPE = 141
INTERRUPTED = 130


@click.group(
    epilog=examples(
        "gradlog run train.py --epochs 3",
        "gradlog analyze train.zarr",
        "gradlog report train.zarr -o report.html",
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="gradlog-zarr", message="gradlog-zarr %(version)s")
@click.pass_context
def gradlog(context: click.Context) -> None:
    """Record the gradients of a training run; measure how predictable and how low-dimensional they were.

    Results go to standard output, progress and warnings to standard error. Exit status: 0 done, 1 error,
    2 wrong usage, 3 the input cannot answer (no run, a newer format, too few steps).
    """
    if os.environ.get("NO_COLOR"):
        context.color = False


for verb in (record, info, analyze, events, watch, report, compare, export, audit, recover, compact):
    gradlog.add_command(verb)


def run(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    stderr.prepare()
    try:
        with gradlog.make_context("gradlog", list(sys.argv[1:] if args is None else args)) as context:
            gradlog.invoke(context)
        if sys.stdout is not None:  # closed by the shell
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    if stderr.debugging():
        traceback.print_exc()
    expected = isinstance(error, (GradlogError, OSError, MemoryError))
    text = str(error) if expected and str(error) else f"{type(error).__name__}: {error}"
    hint = "" if expected or stderr.debugging() else " (an error in gradlog itself; -vv shows where)"
    click.echo(f"gradlog: {printable(' '.join(text.split()))}{hint}", err=True)
    return error.exit_code if isinstance(error, GradlogError) else 1


def _silence_stdout() -> None:
    """Point stdout elsewhere, so that the interpreter's last flush does not complain about the pipe."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
