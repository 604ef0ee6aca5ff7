"""``--watch`` as a user runs it: blocks in a pipe, one screen on a terminal, a page that is never half a page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import gradlog

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0
"""Seconds that a line may take on a loaded machine."""

COMMAND = [sys.executable, "-m", "gradlog"]


class Recorder:
    """A run in this process that grows when asked to."""

    def __init__(self, path: Path) -> None:
        like = {"a": np.zeros(60), "b": np.zeros(35)}
        self.log = gradlog.open(path, like=like, k=16, chunk=16, groups="tensors", on_error="raise")
        self._rng = np.random.default_rng(0)

    def step(self, count: int) -> None:
        for _ in range(count):
            self.log.step({"a": self._rng.standard_normal(60), "b": self._rng.standard_normal(35)}, loss=1.0, lr=0.1)


@pytest.fixture
def live(tmp_path):
    recorder = Recorder(tmp_path / "live.zarr")
    yield recorder
    recorder.log.close()


@pytest.fixture
def start(tmp_path):
    """Start the command beside this process; what is still alive in the end is stopped."""
    begun = []

    def begin(*args: object, out: int = subprocess.PIPE) -> subprocess.Popen[str]:
        env = os.environ | {"GRADLOG_CACHE": str(tmp_path / "cache")}
        begun.append(
            subprocess.Popen(
                [*COMMAND, *map(str, args)], cwd=ROOT, env=env, text=True, stdout=out, stderr=subprocess.PIPE
            )
        )
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait(60)
        for pipe in filter(None, (process.stdout, process.stderr)):
            pipe.close()


def until(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """Lines up to the first that fits; a process that never says it is killed, so that the test fails."""
    lines: list[str] = []
    late = threading.Timer(PATIENCE, process.kill)
    late.start()
    try:
        for line in process.stdout:
            lines.append(line)
            if re.search(pattern, line):
                return lines
    finally:
        late.cancel()
    pytest.fail(f"no {pattern!r} in {lines}, {process.stderr.read()}")


def test_blocks_in_a_pipe_until_the_run_is_closed(tmp_path, live, start):
    live.step(40)
    shown = start("analyze", tmp_path / "live.zarr", "--watch=0.1", "--predictor", "last")
    until(shown, r"^--- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  40 steps, again in 0.1 s if it has grown")
    until(shown, "^more: ")
    live.step(30)
    until(shown, "^--- .*  70 steps, again")
    live.log.close()
    rest = until(shown, "^--- .*  70 steps, closed")
    assert "\x1b" not in "".join(rest)
    assert shown.wait(60) == 0
    assert shown.stderr.read() == ""


def test_json_is_a_line_a_look_and_files_are_replaced(tmp_path, live, start):
    live.step(40)
    target = tmp_path / "result.json"
    shown = start("analyze", tmp_path / "live.zarr", "--watch=0.1", "--json", "-o", target)
    first = json.loads(shown.stdout.readline())
    assert json.loads(target.read_text()) == first
    live.step(8)
    second = json.loads(shown.stdout.readline())
    live.log.close()
    third = json.loads(shown.stdout.readline())
    assert [x["run"]["steps"] for x in (first, second, third)] == [40, 48, 48]
    assert shown.wait(60) == 0
    assert json.loads(target.read_text()) == third
    assert start("analyze", tmp_path / "live.zarr", "--watch", "-o", target).wait(60) == 1


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["analyze", "report"])
def test_control_c_ends_without_a_trace(tmp_path, live, start, verb):
    live.step(60)
    more = ("-o", tmp_path / "page.html") if verb == "report" else ()
    shown = start(verb, tmp_path / "live.zarr", "--watch=0.05", *more)
    until(shown, "60 steps")
    shown.send_signal(signal.SIGINT)
    assert shown.wait(60) == 130
    assert shown.stderr.read() == ""
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.slow
def test_the_page_is_whole_at_any_time(tmp_path, live, start):
    target = tmp_path / "page.html"
    live.step(60)
    shown = start("report", tmp_path / "live.zarr", "--watch=0.05", "-o", target)
    pages = set()
    for steps in (70, 80, 90):
        until(shown, r"page.html  \d{4}")
        live.step(10)
        for _ in range(200):
            text = target.read_text()
            assert text.rstrip().endswith("</html>")
            pages.add(int(re.search(r"<dd><bdi>(\d+) \(0", text).group(1)))
        assert max(pages) >= steps - 10
        assert 'http-equiv="refresh" content="1"' in text
    live.log.close()
    until(shown, "90 steps, closed")
    assert shown.wait(60) == 0
    assert 'http-equiv="refresh"' not in target.read_text()


def test_a_terminal_shows_one_screen(tmp_path, live, start):
    pty = pytest.importorskip("pty")
    live.step(40)
    live.log.close()
    parent, child = pty.openpty()
    shown = start("analyze", tmp_path / "live.zarr", "--watch", out=child)
    os.close(child)
    text = b""
    try:
        while piece := os.read(parent, 65536):
            text += piece
    except OSError:  # Linux reports the closed terminal so
        pass
    os.close(parent)
    assert shown.wait(60) == 0
    assert text.startswith(b"\x1b[H\x1b[2J")
    assert b"---" not in text
    assert re.search(rb"40 steps, closed", text.splitlines()[-1])


def test_waiting_is_told(tmp_path, live, start):
    shown = start("analyze", tmp_path / "live.zarr", "--watch=0.05")
    assert re.fullmatch(r"gradlog: waiting: .*at least 2 needed.*\n", shown.stderr.readline())
    live.step(20)
    until(shown, "^--- .* steps")


def test_a_killed_writer_is_told(killed, start):
    shown = start("analyze", killed, "--watch=0.05")
    until(shown, "^--- .*  20 steps, again")
    said = shown.stderr.readline()
    assert said.startswith("gradlog: the process that recorded it is gone")
    assert "Ctrl-C ends" in said
    shown.send_signal(signal.SIGINT)
    assert shown.wait(60) == 130
    assert shown.stderr.read() == ""


def test_a_folder_of_runs_is_watched_until_all_are_closed(call, make_run, tmp_path):
    make_run(steps=50, name="runs/a.zarr")
    make_run(steps=60, name="runs/b.zarr")
    shown = call("report", tmp_path / "runs", "--watch", "-o", tmp_path / "page.html")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.endswith("  110 steps, closed\n")


def test_what_cannot_be_watched(call, make_run, tmp_path):
    path = make_run()
    missing = call("analyze", tmp_path / "nothing.zarr", "--watch")
    assert (missing.code, missing.out, missing.err.count("\n")) == (3, "", 1)
    assert call("report", tmp_path / "nothing.zarr", "--watch", "-o", tmp_path / "page.html").code == 3
    swallowed = call("analyze", "--watch", path)
    assert swallowed.code == 2
    assert "put --watch after RUN" in swallowed.err
    for seconds in ("0", "-1", "nan", "1e9"):
        assert call("analyze", path, f"--watch={seconds}").code == 2
    two = call("analyze", path, make_run(name="other.zarr"), "--watch")
    assert two.code == 2
    assert "follows one run" in two.err


def test_an_alert_ends_with_its_step_and_values(call, make_run):
    path = make_run()
    told = call("watch", path, "--alert", "norm > 1.02 * median(5)", "--alert", "nonfinite")
    assert (told.code, told.err) == (1, "")
    assert re.fullmatch(r"step \d+: norm > 1\.02 \* median\(5\): norm [\d.]+, median\(norm, 5\) [\d.]+\n", told.out)
    quiet = call("watch", path, "--alert", "norm > 100 * median(5)", "--alert", 'norm("a.weight") < 0')
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    document = json.loads(call("watch", path, "--alert", "step > 9", "--from-step", "20", "--json").out)
    assert document == {"step": 20, "condition": "step > 9", "values": {"step": 20.0}}


def test_a_command_is_run_at_an_alert_and_the_watch_goes_on(call, live, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    live.step(20)

    def go_on():
        live.log.step({"a": np.ones(60), "b": np.ones(35)}, loss=9.0)
        live.log.close()

    training = threading.Thread(target=go_on)
    training.start()
    note = "/bin/sh -c 'echo $GRADLOG_STEP $GRADLOG_VALUES $1 >> told; exit 4' sh '$HOME'"
    told = call("watch", "live.zarr", "--alert", "loss > 5", "--interval", "0.05", "--run", note)
    training.join()
    assert (told.code, told.out) == (0, "step 20: loss > 5: loss 9\n")
    assert (tmp_path / "told").read_text() == '20 {"loss": 9.0} $HOME\n'  # no shell of ours has read it
    assert told.err == "gradlog: /bin/sh ended with status 4\n"


def test_alerts_that_cannot_be_told(call, make_run):
    path = make_run()
    typo = call("watch", path, "--alert", "los > 2 or nonfinite")
    assert (typo.code, typo.out, typo.err.count("\n")) == (3, "", 1)
    assert "no row has los so far; rows have norm, wall_time, loss, lr" in typo.err
    alert = ("--alert", "nonfinite")
    for wrong in (("--alert", "norm >"), (*alert, "--run", "'"), (*alert, "--run", "no-such"), ()):
        assert call("watch", path, *wrong).code == 2


def test_the_last_row_of_a_writer_that_is_gone_counts(call, killed):
    told = call("watch", killed, "--alert", "step == 19", "--interval", "0.05")
    assert (told.code, told.out) == (1, "step 19: step == 19: step 19\n")
    assert "the process that recorded it is gone" in told.err
