"""``gradlog watch``: follow a run, and end or run a command where a condition on its rows becomes true."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from gradlog.analysis.common.text import enumerate_some
from gradlog.analysis.following.expressions import Expression
from gradlog.cli import options, stderr
from gradlog.cli.plain_text import printable
from gradlog.cli.watch import EVERY, Seconds, suspect

if TYPE_CHECKING:
    from gradlog.analysis.following.alerts import Alert
    from gradlog.analysis.reading.run import Run

PATIENCE = 600.0
"""Seconds that a command may take."""

PLACES = 7
"""Digits of a value that are shown."""


def _conditions(context: click.Context, parameter: click.Parameter, texts: Sequence[str]) -> list[Expression]:
    try:
        return [Expression(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _program(context: click.Context, parameter: click.Parameter, command: str | None) -> list[str]:
    try:
        words = shlex.split(command or "")
    except ValueError as error:
        raise click.BadParameter(f"{error}: {command!r}") from error
    if command is not None and (not words or shutil.which(words[0]) is None):
        raise click.BadParameter(f"no program {words[0] if words else command!r}")
    return words


@options.command(
    'gradlog watch run.zarr --alert "norm > 10 * median(200)" --alert nonfinite',
    "gradlog watch run.zarr --alert 'norm(\"layer.0\") > 5 or loss > 2 * min(1000)'",
    "gradlog watch s3://bucket/run.zarr --alert nonfinite --run './tell.sh spike'",
)
@click.argument("run")
@options.measured("--alert", "conditions", multiple=True, required=True, metavar="CONDITION", callback=_conditions,
                  help="What to watch for; may be repeated.")  # fmt: skip
@options.selected("--from-step", "first_step", type=click.IntRange(0), default=0, metavar="N",
                  help="Tell nothing of steps before N.")  # fmt: skip
@options.output("--run", "program", metavar="COMMAND", callback=_program,
                help="Run COMMAND at each alert, and go on, instead of ending with status 1.")  # fmt: skip
@options.output("--interval", "every", type=Seconds(), default=EVERY, metavar="SECONDS",
                help="Time between two looks at the run.")  # fmt: skip
@options.json
@stderr.verbosity
def watch(
    run: str, conditions: list[Expression], first_step: int, program: list[str], every: float, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Watch RUN until it is closed, and end with status 1 at the first row where a CONDITION is true.

    Rows that are there already count too. A CONDITION is made of comparisons, + - * /, and, or, not, numbers and names.

    Names are norm (of the gradient), norm("GROUP"), step, nonfinite, skipped and partial. So is any scalar of the run
    such as loss or lr, in quotes if its name is no word: "lr/muon".

    median(N), mean(N), max(N) and min(N) are of the last N values before the row. They are of what is compared: in norm
    > 10 * median(200), of norm; median(loss, N) names it. A comparison is false if something in it is not known: a
    scalar that was not logged, a statistic of fewer than N values.

    The newest row waits for the next one while RUN is being recorded, since the loop may still log scalars of it. If
    RUN ends and has nothing of some name in a CONDITION, the exit status is 3.

    With --run, COMMAND is split as a shell would, and run without one. It finds GRADLOG_RUN, GRADLOG_STEP,
    GRADLOG_CONDITION and GRADLOG_VALUES (JSON) in its environment, and is stopped after 10 minutes. Each condition
    runs it where it becomes true, once per look at most.
    """
    from gradlog.analysis import open_run
    from gradlog.analysis import watch as looks
    from gradlog.analysis.following.alerts import Alerts

    alerts, told = Alerts(conditions, first_step), set[str]()

    def look(opened: Run, live: bool) -> None:
        for alert in alerts.check(opened, live):
            click.echo(_line(alert, as_json))
            if not program:
                click.get_current_context().exit(1)
            _start(program, run, alert)
        unknown = [name for name in alerts.unknown(opened) if opened.n_steps > 1 and name not in told]
        if unknown and live:
            told.update(unknown)
            stderr.log.warning("%s", _nothing_of(unknown, opened))

    def suspected(reason: str) -> None:
        suspect(reason)
        look(open_run(run), live=False)

    for seen in looks([run], lambda runs, live: look(runs[0], live), every, suspect=suspected):
        if not seen.live and (unknown := alerts.unknown(seen.runs[0])):
            stderr.log.error("%s: %s", run, _nothing_of(unknown, seen.runs[0]))
            click.get_current_context().exit(3)


def _nothing_of(unknown: Sequence[str], run: Run) -> str:
    """Say which names no row has, and which ones rows have."""
    there = [*run.scalar_names, *(f'norm("{group}")' for group in run.groups)]
    return f"no row has {enumerate_some(unknown, 4)} so far; rows have norm, {enumerate_some(there, 8)}"


def _line(alert: Alert, as_json: bool) -> str:
    if as_json:
        return json.dumps({"step": alert.step, "condition": alert.condition, "values": _plain(alert.values)})
    said = ", ".join(f"{name} {value:.{PLACES}g}" for name, value in alert.values.items())
    return printable(f"step {alert.step:,}: {alert.condition}: {said}")


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _start(program: list[str], run: str, alert: Alert) -> None:
    """Run the user's command; its failure is told and ends nothing."""
    about = {
        "RUN": run,
        "STEP": str(alert.step),
        "CONDITION": alert.condition,
        "VALUES": json.dumps(_plain(alert.values)),
    }
    environment = os.environ | {f"GRADLOG_{name}": value for name, value in about.items()}
    try:
        status = subprocess.run(program, env=environment, stdin=subprocess.DEVNULL, timeout=PATIENCE).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        stderr.log.warning("%s: %s", program[0], error)
    else:
        if status:
            stderr.log.warning("%s ended with status %d", program[0], status)
