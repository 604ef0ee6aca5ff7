"""Fixtures shared by the three halves of the suite."""

from __future__ import annotations

import fnmatch
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

# One BLAS thread: deterministic reductions, and no thread pools fighting over two cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

# What analyses keep must not come from, or go to, the user's own folder, and none may answer for another: a folder that
# nothing can be kept in. Tests of what is kept name one.
os.environ["GRADLOG_CACHE"] = os.path.join(os.devnull, "none")

# A suite that is started in the background ignores Ctrl-C, and so would the processes whose Ctrl-C it tests.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("gradlog", deadline=None, print_blob=True)
hypothesis.settings.load_profile("gradlog")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--may-skip FILE``: a skipped test that no line of a FILE names (pattern, reason) fails the session."""
    parser.addoption(
        "--may-skip", type=Path, action="append", metavar="FILE", help="fail on any skip FILE does not name"
    )


def _unexplained(config: pytest.Config) -> list[str]:
    """Skipped tests that may not be skipped; none in a worker of xdist, whose reports its controller has."""
    files, reporter = config.getoption("--may-skip"), config.pluginmanager.get_plugin("terminalreporter")
    if files is None or reporter is None:
        return []
    lines = [line for file in files for line in file.read_text().splitlines() if line and not line.startswith("#")]
    patterns = [pattern for pattern, _reason in (line.split(maxsplit=1) for line in lines)]
    skipped = {report.nodeid for report in reporter.stats.get("skipped", [])}
    return sorted(name for name in skipped if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and _unexplained(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name in _unexplained(config):
        terminalreporter.write_line(f"SKIPPED, and named by no list of --may-skip: {name}", red=True)


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """Give each test the log as a new process has it: the command line, called in a test, sets handlers and levels."""
    _reset_log()
    yield
    _reset_log()


def _reset_log() -> None:
    log = logging.getLogger("gradlog")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)
    log.propagate = True
