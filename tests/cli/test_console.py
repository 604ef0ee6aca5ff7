"""Streams, signals and colours of the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gradlog.analysis.common.text import TERMINAL
from gradlog.cli import app, plain_text, stderr

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "gradlog"]


def run_and_poke(code: str, path: Path, poke: Callable[[subprocess.Popen[bytes]], None]) -> tuple[int, bytes]:
    """Start ``gradlog info`` with ``code`` run before; poke the process once it says ready; status and stderr."""
    imports = "import sys, time; from gradlog.cli import main; from gradlog.cli.commands import info"
    code = f"{imports}; {code}; main(['info', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        poke(process)
        return process.wait(), process.stderr.read()


def test_help_names_the_verbs_and_exit_codes(call):
    shown = call("--help")
    assert shown.code == 0
    for word in ("info", "analyze", "Exit status: 0 done"):
        assert word in " ".join(shown.out.split())


def test_no_verb_is_wrong_usage(call):
    assert call().code == 2
    assert call("frob").code == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["analyze", "run.zarr", "--eps", "0.1", "--eps", "0.1"], "each number once"),
        (["report", "run.zarr", "--eps", "0.1", "--eps", "0.1"], "each number once"),
        (["analyze", "run.zarr", "--stride", "5"], "--stride goes with --window"),
        (["analyze", "run.zarr", "--sample", "2048", "--window", "5"], "--sample goes without --window"),
        (["analyze", "run.zarr", "--sample", "2048", "--directions"], "--sample goes without --window"),
        (["analyze", "a.zarr", "b.zarr", "--plot", "x.png"], "--plot draws one run"),
        (["export", "run.zarr", "--to", "csv", "--window", "5"], "--window goes with --what result"),
        (["export", "run.zarr", "--to", "csv", "--what", "result", "--no-sketch"], "--no-sketch goes with --what rows"),
        (["run", "--k", "0", __file__], "0 is not in the range"),
    ],
)
def test_options_that_would_be_ignored_or_fail_late_are_wrong_usage(call, tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)
    refused = call(*words)
    assert (refused.code, refused.out) == (2, "")
    assert reason in " ".join(refused.err.split())


HEADINGS = ("What is measured:", "What is read:", "Output:", "How it is computed:", "Other options:", "  Examples:")


def test_help_lists_options_under_headings_and_ends_with_examples(call):
    lines = call("analyze", "--help").out.splitlines()
    assert [line for line in lines if line in HEADINGS] == list(HEADINGS)
    assert "Options:" not in lines
    for verb in app.gradlog.commands:
        assert call(verb, "--help").out.splitlines()[-1].startswith("    ")


def test_names_that_options_had_are_taken_and_not_shown(call, samples):
    run = samples / "mlp_wine_exact.zarr"
    old = call(
        "analyze", run, "--json", "--prefixes", "2", "--light", "--kernel", "numpy", "--view", "all", "--no-cache"
    )
    now = call(
        "analyze", run, "--json", "--growing-windows", "2", "--low-memory-windows", "--keep-abandoned", "--no-cache"
    )
    for shown in (old, now):
        assert (shown.code, len(json.loads(shown.out)["prefixes"])) == (0, 2)
        assert json.loads(shown.out)["run"]["view"] == "all"
    help_text = call("analyze", "--help").out
    assert not [name for name in ("--prefixes", "--light", "--kernel", "--view") if name in help_text]


def test_version(call):
    assert call("--version").out.startswith("gradlog-zarr ")


def test_a_broken_pipe_ends_quietly(samples):
    code = "print('ready', flush=True); time.sleep(0.5)"
    ended = run_and_poke(code, samples / "mlp_wine_exact.zarr", lambda process: process.stdout.close())
    assert ended == (app.BROKEN_PIPE, b"")


def test_a_closed_standard_output_is_no_error(samples):
    command = [*COMMAND, "info", str(samples / "mlp_wine_exact.zarr")]
    shell = ["bash", "-c", '"$@" >&-', "bash", *command]
    ended = subprocess.run(shell, cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_control_c_ends_quietly(samples):
    code = "info.summary = lambda *known: print('ready', flush=True) or time.sleep(60)"
    ended = run_and_poke(code, samples / "mlp_wine_exact.zarr", lambda process: process.send_signal(signal.SIGINT))
    assert ended == (app.INTERRUPTED, b"")


@pytest.mark.parametrize(("flag", "shown"), [([], False), (["-vv"], True)])
def test_traceback_with_vv_only(call, flag, shown):
    outcome = call("info", "nothing.zarr", *flag)
    assert outcome.code == 3
    assert ("Traceback" in outcome.err) is shown


def test_an_error_of_our_own_says_so(call, samples, monkeypatch):
    monkeypatch.setattr("gradlog.cli.commands.info.summary", lambda *known: 1 / 0)
    outcome = call("info", samples / "mlp_wine_exact.zarr")
    assert outcome.code == 1
    assert outcome.err == (
        "gradlog: ZeroDivisionError: division by zero (an error in gradlog itself; -vv shows where)\n"
    )


def on_terminal(*args: str, **environment: str) -> str:
    """Standard output of the command on a pseudo-terminal."""
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | environment
    process = subprocess.Popen([*COMMAND, *args], cwd=ROOT, stdout=child, stderr=subprocess.DEVNULL, env=env)
    os.close(child)
    shown = b""
    try:
        while piece := os.read(parent, 65536):
            shown += piece
    except OSError:  # Linux reports the closed terminal so
        pass
    os.close(parent)
    assert process.wait() == 0
    return shown.decode()


def test_colour_on_terminals_only_and_not_with_no_color(call, samples):
    path = str(samples / "mlp_wine_exact.zarr")
    assert "\x1b[1m" in on_terminal("info", path)
    assert "\x1b" not in on_terminal("info", path, NO_COLOR="1")
    assert "\x1b" not in call("info", path).out


def test_heartbeat_lines_are_rare(monkeypatch, capsys):
    clock = iter([0.0, 5.0, 12.0, 13.0, 25.0])
    monkeypatch.setattr(stderr.time, "monotonic", lambda: next(clock))
    with stderr.progress("analyze", quiet=False, unit="runs") as progress:
        for done in (1, 2, 3, 4):
            progress(done, 4)
    assert capsys.readouterr().err == (
        "gradlog: analyze: 50%, 2 of 4 runs, about 12 s left\ngradlog: analyze: 100%, 4 of 4 runs, about 0 s left\n"
    )


def test_progress_counts_the_rows_and_bytes_that_were_read(monkeypatch, capsys, make_run):
    from gradlog.analysis import analyze

    monkeypatch.setattr(stderr, "HEARTBEAT", 0.0)
    with stderr.progress("analyze", quiet=False) as progress:
        analyze(str(make_run(steps=100)), ["last"], progress=progress)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "gradlog: analyze: 0%, 100 rows, 12.5 KiB read"
    assert lines[-1].startswith("gradlog: analyze: 100%, 100 rows, 12.5 KiB read, about 0 s left")
    analyze(str(make_run(name="other.zarr")), ["last"])
    assert capsys.readouterr().err == ""  # nobody listens any more


def test_no_progress_when_quiet(monkeypatch, capsys):
    monkeypatch.setattr(stderr, "HEARTBEAT", 0.0)
    with stderr.progress("analyze", quiet=True) as progress:
        progress(1, 2)
    assert capsys.readouterr().err == ""


class Terminal(list):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.append(text)

    def flush(self) -> None: ...

    def left(self) -> str:
        """What a reader sees on the line in the end: a carriage return goes to its start, letters replace letters."""
        line: list[str] = []
        for piece in "".join(self).split("\r"):
            line[: len(piece)] = piece
        return "".join(line).strip()


@pytest.mark.parametrize("reads", [1, 4, 8])
def test_a_bar_leaves_nothing_behind(monkeypatch, reads):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with stderr.progress("analyze", quiet=False) as progress:
        progress(0, 4)
        for _ in range(reads):  # no block is done yet: the bar is drawn because of what was read
            time.sleep(0.11)
            progress.read(1000, 2**20)
    assert terminal.left() == ""


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(stderr, "PATIENCE", 0.0)
    with stderr.progress("analyze", quiet=False) as progress:
        for done in range(1, 5):
            progress.read(1000, 2**20)
            progress(done, 4)
            time.sleep(0.12)
    text = "".join(terminal)
    assert "analyze:" in text
    assert "75%" in text
    assert "3,000 rows, 3.0 MiB read" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.05, "1.050"),
        (13.84, "13.84"),
        (0.0, "0"),
        (0.05312, "0.05312"),
        (-0.5, "-0.5000"),
        (1e-5, "1.000e-05"),
        (123456.0, "1.235e+05"),
        (9999.9, "10000"),
        (float("nan"), "-"),
        (None, "-"),
    ],
)
def test_numbers(value, text):
    assert TERMINAL.number(value) == text


def test_tables_align_labels_above_numbers():
    assert plain_text.table(["name", "x"], [["a", "1.0"], ["longer", "10.0"]])[1:] == [
        "  a        1.0",
        "  longer  10.0",
    ]


def test_a_spark_goes_from_the_least_to_the_largest():
    assert plain_text.spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert plain_text.spark([3.0, None, float("nan"), 1.0]) == "█  ▁"
    assert plain_text.spark([2.0, 2.0]) == "▁▁"
    assert plain_text.spark([0.1] * 100, 40) == "▁" * 40
    assert plain_text.spark([-1.7e308, 0.0, 1.7e308, 1.7e308]) == "▁▅██"
    assert plain_text.spark([-1e308, -1e308, 1e308, 1e308], 2) == plain_text.spark([0.0, 1e-320]) == "▁█"
    assert plain_text.spark([]) == plain_text.spark([None]) == ""
    assert plain_text.spark(range(100), 4) == "▁▃▆█"
    assert len(plain_text.spark(range(1001))) == plain_text.SPARK
    assert plain_text.curve("loss", [0.5, 4.0], 6) == "  loss    ▁█  0.5000 .. 4.000"


def test_a_curve_fits_a_narrow_terminal_and_a_pipe_has_none(monkeypatch):
    values = list(range(100))
    assert len(plain_text.curve("loss", values)) == len("  loss    0 .. 99.00") + plain_text.SPARK
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "44")
    assert len(plain_text.curve("loss", values)) == 44
    monkeypatch.setenv("COLUMNS", "10")
    assert len(plain_text.curve("loss", values)) == len("  loss    0 .. 99.00") + 8
    monkeypatch.setenv("COLUMNS", "200")
    assert len(plain_text.curve("loss", values)) == len("  loss    0 .. 99.00") + plain_text.SPARK


def test_a_spark_keeps_to_the_letters_of_the_stream(monkeypatch):
    class Plain:
        encoding = "latin-1"

    monkeypatch.setattr(sys, "stdout", Plain())
    assert plain_text.spark([0, 1, 2, 3, 4, 5, 6, 7]) == "_.-:=+*#"
