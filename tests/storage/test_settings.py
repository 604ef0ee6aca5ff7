"""What a logger tells of its storage: rows that it does not have yet, and why it refuses them."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.errors import StoreUnavailableError
from gradlog.recorder import earlier_runs
from gradlog.storage.sink import LocalSink, UrlSink
from tests.helpers.small_run import gradient, start


@dataclasses.dataclass(frozen=True)
class Gated(gradlog.Storage):
    """A disk that refuses flushes as long as its gate is closed."""

    flush_pauses: tuple[float, ...] = (0.01,)
    gate: threading.Event = dataclasses.field(default_factory=threading.Event)

    def open(self, path: str | os.PathLike[str], durable: bool = False) -> LocalSink:
        return _GatedSink(path, self.gate)


class _GatedSink(LocalSink):
    def __init__(self, path: str | os.PathLike[str], gate: threading.Event) -> None:
        super().__init__(path)
        self._gate = gate

    def put(self, key: str, data: Sequence[bytes]) -> None:
        if not self._gate.is_set():
            raise StoreUnavailableError("asked to slow down")
        super().put(key, data)


def test_rows_are_pending_until_the_store_takes_them_and_the_outage_says_why(tmp_path: Path) -> None:
    storage = Gated()
    log = start(tmp_path / "r.zarr", storage=storage)
    for t in range(17):  # the first of the second chunk hands over the first one
        log.step(gradient(t))
    while not log.outage:
        time.sleep(0.01)
    assert log.outage == "asked to slow down"
    assert (log.rows, log.pending) == (17, 17)
    storage.gate.set()
    while log.pending > 1 or log.outage:
        time.sleep(0.01)
    assert len(open_run(tmp_path / "r.zarr").steps) == 17
    log.close()
    assert (log.rows, log.pending, log.outage) == (17, 0, "")
    assert open_run(tmp_path / "r.zarr").segments[0].header.status == "closed"


def test_a_logger_that_is_off_has_nothing_pending(tmp_path: Path) -> None:
    log = gradlog.open(tmp_path / "r.zarr")  # no gradient yet: nothing is known of the layout
    assert (log.pending, log.outage) == (0, "")
    log.close()


@dataclasses.dataclass(frozen=True)
class Silent(gradlog.Storage):
    """A store elsewhere that takes requests and answers none as long as its gate is closed."""

    open_wait: float = 0.05
    flush_pauses: tuple[float, ...] = (0.01,)
    gate: threading.Event = dataclasses.field(default_factory=threading.Event)

    def open(self, path: str | os.PathLike[str], durable: bool = False) -> UrlSink:
        return _SilentSink(str(path), self.gate)


class _SilentSink(UrlSink):
    def __init__(self, url: str, gate: threading.Event) -> None:
        super().__init__(url)
        self._gate = gate

    def get(self, key: str) -> bytes:
        self._gate.wait(0.2)
        return super().get(key)


@pytest.fixture
def spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLOG_SPOOL", str(tmp_path / "spool"))


@pytest.mark.usefixtures("spooled")
def test_opening_does_not_wait_for_a_store_that_is_silent() -> None:
    storage = Silent()
    with pytest.warns(gradlog.GradlogWarning, match="nothing came within 0.05 s; training goes on, rows wait"):
        log = start("memory://silent/r.zarr", storage=storage)
    log.step(gradient(0))
    assert log.pending == 1
    storage.gate.set()
    log.close()
    assert open_run("memory://silent/r.zarr").steps.tolist() == [0]


@pytest.mark.usefixtures("spooled")
def test_rows_that_cannot_wait_are_worth_waiting_for() -> None:
    log = start("memory://silent/without.zarr", storage=Silent(), journal=False)
    log.step(gradient(0))
    log.close()
    assert open_run("memory://silent/without.zarr").steps.tolist() == [0]


def test_names_are_not_looked_up_in_a_store_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def silent(path: str, *others: object) -> bytes | None:
        asked.append(path)
        raise StoreUnavailableError("nothing came")

    monkeypatch.setattr(earlier_runs, "first_answer", silent)
    url = "s3://bucket/r.zarr"
    assert (earlier_runs.first_free(url), earlier_runs.newest(url)) == (url, url)
    assert asked == [url, url]
