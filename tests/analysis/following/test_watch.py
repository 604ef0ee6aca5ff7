"""A run that a process of its own records is watched: every look reads what is new, the last one comes with the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gradlog.analysis import analyze, html_report, open_run
from gradlog.analysis.caching.cache import Cache
from gradlog.analysis.following.watch import Look, is_live, silence, watch
from gradlog.errors import NotARunError, TooFewStepsError

ROOT = Path(__file__).resolve().parents[3]
WRITER = """
import sys
import gradlog
from tests.helpers.growing_runs import gradients
like, step = next(gradients(0, 1)), 0
with gradlog.open(sys.argv[1], like=like, k=16, chunk=16, groups="tensors", on_error="raise") as log:
    print("ready", flush=True)
    for line in sys.stdin:
        for grads in gradients(step, step + int(line)):
            log.step(grads, loss=1 / (1 + step), lr=0.1)
            step += 1
        print(step, flush=True)
print("closed", flush=True)
"""


class Writer:
    """A recording process that takes as many steps as it is told."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._answer() == "ready"

    def step(self, count: int) -> None:
        assert self.process.stdin is not None
        print(count, file=self.process.stdin, flush=True)
        self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self._answer() == "closed"
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def writer(tmp_path):
    found = Writer(tmp_path / "live.zarr")
    yield found
    found.kill()


def committed(look: Look) -> int:
    """Rows that chunks held."""
    return sum(segment.committed for segment in look.runs[0].segments)


def test_every_look_reads_new_chunks_only(tmp_path, writer, small_blocks, rows_read):
    path, store = tmp_path / "live.zarr", Cache(tmp_path / "cache")
    script = iter([lambda: writer.step(100), lambda: None, lambda: writer.step(60), writer.close])
    looks: list[tuple[Look, list[int]]] = []
    writer.step(200)
    for look in watch([path], lambda runs, live: analyze(runs[0], cache=store), 5.0, wait=lambda _: next(script)()):
        looks.append((look, sorted(set(rows_read))))
        rows_read.clear()
    assert [look.steps for look, _ in looks] == [200, 300, 360, 360]
    assert [look.live for look, _ in looks] == [True, True, True, False]
    known = [0, *(committed(look) for look, _ in looks)]
    assert known[1] >= 64
    for before, (look, rows) in zip(known, looks, strict=False):
        # rows of whole chunks are known; those that only the journal held before are new
        assert rows == list(range(before // 16 * 16, look.steps))
    plain = analyze(open_run(path))
    assert (looks[-1][0].result["kappa"].values == plain["kappa"].values).all()


def test_the_report_of_a_growing_run_reads_new_chunks_only(tmp_path, writer, small_blocks, rows_read):
    path, store = tmp_path / "live.zarr", Cache(tmp_path / "cache")
    script = iter([lambda: writer.step(32), writer.close])
    counts, known, pages = [], [], []
    writer.step(200)
    for look in watch([path], lambda runs, live: html_report(runs, again=3 if live else None, cache=store),
                      wait=lambda _: next(script)()):  # fmt: skip
        counts.append(len(rows_read))
        known.append(committed(look))
        rows_read.clear()
        pages.append(look.result)
    assert counts[0] == 200  # the run, its windows and its groups in one pass
    assert counts[1] <= 232 - known[0] // 16 * 16
    assert known[0] >= 64
    assert ['http-equiv="refresh" content="3"' in page for page in pages] == [True, True, False]


def test_runs_that_are_too_short_are_waited_for(tmp_path, writer):
    script = iter([lambda: writer.step(1), lambda: writer.step(5), writer.close])
    looks = list(watch([tmp_path / "live.zarr"], lambda runs, live: analyze(runs[0]), wait=lambda _: next(script)()))
    assert [look.result is None for look in looks] == [True, True, False, False]
    assert "at least 2 needed" in looks[0].waiting


def test_a_closed_run_is_looked_at_once(tmp_path, record):
    path = record(tmp_path / "r.zarr", 0, 40)
    looks = list(watch([path], lambda runs, live: live, wait=lambda _: pytest.fail("waits")))
    assert [(look.result, look.live) for look in looks] == [(False, False)]
    short = record(tmp_path / "short.zarr", 0, 1)
    with pytest.raises(TooFewStepsError):
        next(watch([short], lambda runs, live: analyze(runs[0])))
    with pytest.raises(NotARunError):
        next(watch([tmp_path / "nothing.zarr"], lambda runs, live: None))


def test_several_runs_end_with_the_last(tmp_path, writer, record):
    paths = [tmp_path / "live.zarr", record(tmp_path / "r.zarr", 0, 40)]
    script = iter([writer.close])
    writer.step(10)
    looks = list(watch(paths, lambda runs, live: len(runs), wait=lambda _: next(script)()))
    assert [(look.result, look.steps, look.live) for look in looks] == [(2, 50, True), (2, 50, False)]


def test_a_writer_that_is_gone_is_told_once_and_its_successor_is_watched(tmp_path, writer, record):
    path = tmp_path / "live.zarr"
    writer.step(10)
    script = iter([writer.kill, lambda: None, lambda: None, lambda: record(path, 10, 30)])
    told = []
    looks = list(watch([path], lambda runs, live: None, wait=lambda _: next(script)(), suspect=told.append))
    assert told == ["the process that recorded it is gone and did not close it"]
    assert [(look.steps, look.live) for look in looks] == [(10, True), (30, False)]


def test_silence_is_told_once_until_there_is_a_new_row(tmp_path, writer, monkeypatch):
    monkeypatch.setattr(sys.modules[watch.__module__], "SILENCE", 0.0)
    writer.step(10)
    script = iter([lambda: None, lambda: None, lambda: writer.step(5), lambda: None, writer.close])
    told = []
    list(watch([tmp_path / "live.zarr"], lambda runs, live: None, wait=lambda _: next(script)(), suspect=told.append))
    assert told == ["no new rows for 0 min, the writer may be gone"] * 2


def test_nothing_is_suspected_of_a_writer_at_work(tmp_path, writer):
    writer.step(10)
    assert silence([open_run(tmp_path / "live.zarr")], 599.0) == ""


def test_who_is_live(tmp_path, writer, record):
    path = tmp_path / "live.zarr"
    assert is_live(open_run(path))
    writer.kill()
    assert is_live(open_run(path))  # nobody can tell a killed writer from a slow one
    record(path, 0, 10)
    assert not is_live(open_run(path))
