"""``--watch``: the same answer again whenever a run has grown, until its writer closes it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from gradlog.cli import options, stderr
from gradlog.cli.plain_text import heading

if TYPE_CHECKING:
    from gradlog.analysis.following.watch import Look
    from gradlog.analysis.reading.run import Run, View

Result = TypeVar("Result")

EVERY = 10.0
CLEAR = "\x1b[H\x1b[2J\x1b[3J"


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """A time in seconds; what stands after ``--watch`` by accident is told apart from one."""

    name = "seconds"

    def convert(self, value: str | float, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """See click."""
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is no number of seconds; put --watch after RUN, or write --watch={EVERY:g}")
        if not 0.01 <= seconds <= 86400:
            self.fail(f"expected 0.01 to 86400 seconds, got {value}")
        return seconds


option = options.output(
    "--watch", "every", is_flag=False, flag_value=str(EVERY), type=Seconds(), metavar="[SECONDS]",
    help=f"Keep running: update the result when there are new steps, checked every SECONDS (default {EVERY:g}), until "
    "the run is closed.",
)  # fmt: skip


def follow(
    paths: list[str], measure: Callable[[list[Run], bool], Result], every: float, view: View,
    show: Callable[[Result, Look[Result]], None],
) -> None:  # fmt: skip
    """Show every look at the runs; say on standard error what is waited for where there is nothing to show."""
    from gradlog.analysis.following.watch import watch

    for look in watch(paths, measure, every, view, suspect=suspect):
        if look.result is None:
            stderr.log.warning("waiting: %s", look.waiting)
        else:
            show(look.result, look)
        sys.stdout.flush()


def suspect(reason: str) -> None:
    """Say why no more rows may come."""
    stderr.log.warning("%s; still watching, since it may be resumed: Ctrl-C ends", reason)


def block(lines: list[str], look: Look[Result], every: float) -> None:
    """Print in place of the look before on a terminal; elsewhere below it, under a line with the time."""
    then = f"again in {every:g} s if it has grown, Ctrl-C ends" if look.live else "closed"
    title = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {look.steps:,} steps, {then}"
    if on_screen():
        sys.stdout.write(CLEAR)
        click.echo("\n".join([*fitting(lines, shutil.get_terminal_size().lines, look.live), "", heading(title)]))
    else:
        click.echo("\n".join([f"--- {title}", *lines, ""]))


def fitting(lines: list[str], rows: int, live: bool) -> list[str]:
    """Cut what does not fit above the title while the run is live: the findings stand first, and must not scroll away.

    >>> fitting(["finding", "table", "table", "table"], 5, live=True), fitting(["finding", "table"], 2, live=False)
    (['finding', 'table'], ['finding', 'table'])
    """
    return lines[: max(1, rows - 3)] if live else lines


def on_screen() -> bool:
    """Whether standard output is a terminal that can be cleared."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
