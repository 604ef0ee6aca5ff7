"""What a logger tells of its storage: rows that it does not have yet, and why it refuses them."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import gradlog
from gradlog.analysis import open_run
from gradlog.errors import StoreUnavailableError
from gradlog.storage.sink import LocalSink
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
