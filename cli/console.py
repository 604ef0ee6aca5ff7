"""Standard error: log lines, warnings, progress. Standard output stays free for results."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from gradlog.cli.render import printable

log = logging.getLogger("gradlog")

HEARTBEAT = 10.0
"""Seconds between progress lines where there is no terminal."""

PATIENCE = 0.5
"""Seconds before a bar appears: short work shows none."""


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"gradlog: {printable(record.getMessage())}", err=True)


def prepare() -> None:
    """Set up streams and logging once a process; output in an encoding that lacks a letter shows its escape."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not any(isinstance(h, _ToStderr) for h in log.handlers):
        log.addHandler(_ToStderr())
        log.propagate = False
    warnings.showwarning = _show_warning


def verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``-v``, ``-vv`` and ``-q`` to a command."""
    command = click.option(
        "-v", "--verbose", count=True, expose_value=False, callback=_set_level, is_eager=True,
        help="More on standard error; -vv adds the traceback of an error.",
    )(command)  # fmt: skip
    return click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")(command)


def debugging() -> bool:
    """Whether ``-vv`` was given."""
    return log.isEnabledFor(logging.DEBUG)


@contextmanager
def progress(title: str, quiet: bool, unit: str = "blocks") -> Iterator[Callable[[int, int], None]]:
    """Yield a callback ``(done, total)``: a bar on a terminal, a line now and then elsewhere."""
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=title, unit=f" {unit}", leave=False, file=sys.stderr, delay=PATIENCE) as bar:
            yield lambda done, total: _advance(bar, done, total)
    else:
        yield _Heartbeat(title, unit)


class _Heartbeat:
    def __init__(self, title: str, unit: str = "blocks") -> None:
        self._title, self._unit, self._start = title, unit, time.monotonic()
        self._next = self._start + HEARTBEAT

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next and done:
            self._next = now + HEARTBEAT
            left = (now - self._start) * (total - done) / done
            click.echo(f"gradlog: {self._title}: {done:,} of {total:,} {self._unit}, about {left:.0f} s left", err=True)


def _advance(bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def _set_level(context: click.Context, parameter: click.Parameter, count: int) -> None:
    log.setLevel({0: logging.WARNING, 1: logging.INFO}.get(count, logging.DEBUG))


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    if isinstance(message, UserWarning) or debugging():
        click.echo(f"gradlog: warning: {printable(message)}", err=True)
