"""Standard error: log lines, warnings, progress. Standard output stays free for results."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


@contextmanager
def progress(title: str, quiet: bool, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Yield a callback ``(done, total)``: a bar on a terminal, a line now and then elsewhere.

    Both show the rows and bytes that this process has read since, as they are read; ``unit`` names what ``done`` and
    ``total`` count where that means something to a reader.
    """
    if quiet:
        yield lambda done, total: None
        return
    from gradlog.analysis.reading.rows import heard

    if sys.stderr.isatty():
        from tqdm import tqdm

        shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
        with tqdm(desc=title, bar_format=shape, leave=False, file=sys.stderr, delay=PATIENCE) as bar:
            shown = _Bar(bar, unit)
            with heard(shown.read):
                yield shown
    else:
        beat = _Heartbeat(title, unit)
        with heard(beat.read):
            yield beat


class _Work:
    """Rows and bytes read so far, and how much of the whole is done; called from any thread."""

    def __init__(self, unit: str) -> None:
        self._unit, self._lock = unit, threading.Lock()
        self.rows = self.bytes = self.done = self.total = 0

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.show()

    def read(self, rows: int, size: int) -> None:
        """Count a read."""
        with self._lock:
            self.rows += rows
            self.bytes += size
        self.show()

    def text(self) -> list[str]:
        """Tell what was done: of the unit if it has a name, then rows and bytes."""
        units = [f"{self.done:,} of {self.total:,} {self._unit}"] if self._unit else []
        return [*units, *([f"{self.rows:,} rows, {size(self.bytes)} read"] if self.rows else [])]

    def show(self) -> None:
        """Tell the user, not too often."""


class _Bar(_Work):
    def __init__(self, bar: tqdm[NoReturn], unit: str) -> None:
        super().__init__(unit)
        self._bar = bar

    def show(self) -> None:
        with self._lock:
            self._bar.total = self.total or None
            self._bar.set_postfix_str(", ".join(self.text()), refresh=False)
            now = time.time()
            shown = self._bar.update(self.done - self._bar.n)
            if not shown and now - self._bar.last_print_t > BLINK and now - self._bar.start_t > PATIENCE:
                self._bar.refresh()
                self._bar.last_print_t = now  # or close would think that nothing was drawn, and leave it there


class _Heartbeat(_Work):
    def __init__(self, title: str, unit: str) -> None:
        super().__init__(unit)
        self._title, self._start = title, time.monotonic()
        self._next = self._start + HEARTBEAT

    def show(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now < self._next or not (self.done or self.rows):
                return
            self._next = now + HEARTBEAT
        share = self.done / self.total if self.total else 0.0
        left = [f"about {(now - self._start) * (1 - share) / share:.0f} s left"] if share else []
        click.echo(f"gradlog: {self._title}: {', '.join([f'{share:.0%}', *self.text(), *left])}", err=True)


def _set_level(context: click.Context, parameter: click.Parameter, count: int) -> None:
    log.setLevel({0: logging.WARNING, 1: logging.INFO}.get(count, logging.DEBUG))


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    if isinstance(message, UserWarning) or debugging():
        click.echo(f"gradlog: warning: {printable(message)}", err=True)
