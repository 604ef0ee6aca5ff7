"""Standard error: log lines, warnings, progress. Standard output stays free for results."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click

from gradlog.cli.plain_text import printable, size

if TYPE_CHECKING:
    from typing import NoReturn

    from tqdm import tqdm

    from gradlog.analysis.comparison.find import Failure

log = logging.getLogger("gradlog")

HEARTBEAT = 10.0
"""Seconds between progress lines where there is no terminal."""

BLINK = 0.1
"""Seconds between two drawings of a bar."""

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


def tell_failed(failures: Iterable[Failure]) -> None:
    """Name the runs of an archive that failed, and make the exit status 1 if there are any."""
    failed = list(failures)
    for failure in failed:
        log.error("%s: %s", failure.path, failure.error.removeprefix(f"{failure.path}: "))
    if failed:
        click.get_current_context().exit(1)


def debugging() -> bool:
    """Whether ``-vv`` was given."""
    return log.isEnabledFor(logging.DEBUG)


@contextlib.contextmanager
def progress(title: str, quiet: bool, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Yield a callback ``(done, total)``: a bar on a terminal, a line now and then elsewhere.

    Both show the rows and bytes that this process has read since, as they are read; ``unit`` names what ``done`` and
    ``total`` count where that means something to a reader.
    """
    if quiet:
        yield lambda done, total: None
        return
    from gradlog.analysis.reading.rows import heard

    with contextlib.ExitStack() as stack:
        bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
            bar = stack.enter_context(tqdm(desc=title, bar_format=shape, leave=False, file=sys.stderr, delay=PATIENCE))
        work = _Work(title, unit, bar)
        stack.enter_context(heard(work.read))
        yield work


class _Work:
    """Rows and bytes read so far, and how much of the whole is done; called from any thread."""

    def __init__(self, title: str, unit: str, bar: tqdm[NoReturn] | None) -> None:
        self._title, self._unit, self._bar, self._lock = title, unit, bar, threading.Lock()
        self._rows = self._bytes = self._done = self._total = 0
        self._start = time.monotonic()
        self._next = self._start + HEARTBEAT

    def __call__(self, done: int, total: int) -> None:
        with self._lock:
            self._done, self._total = done, total
            self._show()

    def read(self, rows: int, size: int) -> None:
        """Count a read."""
        with self._lock:
            self._rows += rows
            self._bytes += size
            self._show()

    def _show(self) -> None:
        units = [f"{self._done:,} of {self._total:,} {self._unit}"] if self._unit else []
        read = [f"{self._rows:,} rows, {size(self._bytes)} read"] if self._rows else []
        self._beat([*units, *read]) if self._bar is None else self._draw(self._bar, [*units, *read])

    def _draw(self, bar: tqdm[NoReturn], said: list[str]) -> None:
        bar.total = self._total or None
        bar.set_postfix_str(", ".join(said), refresh=False)
        now = time.time()
        shown = bar.update(self._done - bar.n)
        if not shown and now - bar.last_print_t > BLINK and now - bar.start_t > PATIENCE:
            bar.refresh()
            bar.last_print_t = now  # or close would think that nothing was drawn, and leave it there

    def _beat(self, said: list[str]) -> None:
        now = time.monotonic()
        if now < self._next or not (self._done or self._rows):
            return
        self._next = now + HEARTBEAT
        share = self._done / self._total if self._total else 0.0
        left = [f"about {(now - self._start) * (1 - share) / share:.0f} s left"] if share else []
        click.echo(f"gradlog: {self._title}: {', '.join([f'{share:.0%}', *said, *left])}", err=True)


def _set_level(context: click.Context, parameter: click.Parameter, count: int) -> None:
    log.setLevel({0: logging.WARNING, 1: logging.INFO}.get(count, logging.DEBUG))


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    if isinstance(message, UserWarning) or debugging():
        click.echo(f"gradlog: warning: {printable(message)}", err=True)
