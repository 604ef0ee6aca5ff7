"""Ending a recording: by another thread, by dropping the logger, and what a short run costs until then and after."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.files import Folder
from gradlog.analysis.audit.integrity import check, examine
from gradlog.recorder.recovery import recover
from gradlog.storage.compact import compact
from tests.helpers.small_run import environment, gradient, open_files, start

WIDE = {f"layer{i}": np.ones(300) for i in range(16)}


def test_closed_while_another_thread_steps(tmp_path: Path) -> None:
    for i in range(10):
        path = tmp_path / f"{i}.zarr"
        log, taken, begun = start(path, chunk=2), [0], threading.Event()

        def steps(
            log: gradlog.Logger = log, taken: list[int] = taken, begun: threading.Event = begun, i: int = i
        ) -> None:
            for t in range(100_000):
                log.step(gradient(t % 7))
                if not log.active:
                    break
                taken[0] = t + 1
                if t == 3 * i:
                    begun.set()

        thread = threading.Thread(target=steps)
        thread.start()
        begun.wait()
        log.close()
        thread.join()
        run = open_run(path)
        assert log.reason == ""
        assert [s.header.status for s in run.segments] == ["closed"]
        assert taken[0] <= len(run.steps) <= taken[0] + 1  # the last row may have come just before the end
        assert examine(Folder(path)).problems == []


def test_closed_before_the_first_gradient_came(tmp_path: Path) -> None:
    log = gradlog.open(tmp_path / "r.zarr", k=8, on_error="raise")
    log.close()
    log.step(gradient(0))
    assert not (tmp_path / "r.zarr").exists()


def test_a_logger_that_is_dropped_is_closed(tmp_path: Path) -> None:
    for i in range(3):
        log = start(tmp_path / f"{i}.zarr")
        for t in range(20):
            log.step(gradient(t))
    del log
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "gradlog-close":
            thread.join()
    for i in range(3):
        assert open_run(tmp_path / f"{i}.zarr").info["status"] == "closed"
        assert open_run(tmp_path / f"{i}.zarr").n_steps == 20
    assert open_files(tmp_path) == []


def test_a_short_run_takes_little_room(tmp_path: Path) -> None:
    """Twelve rows of 16 KiB in a chunk of 4 MiB; read back, resumed and compacted it is what it was."""
    path = tmp_path / "r.zarr"
    for mode in ("w-", "a"):
        with gradlog.open(path, like=WIDE, groups="tensors", k=256, mode=mode, on_error="raise") as log:
            for _ in range(12):
                log.step(WIDE)
    before = open_run(path).sketch.compute()
    assert before.shape == (24, 16, 256)
    assert check(path).problems == []
    for verb in (lambda: None, lambda: compact(path)):
        verb()
        used = sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())
        assert used < 2 * before.nbytes
        assert np.array_equal(open_run(path).sketch.compute(), before)


def test_a_system_without_fdatasync(tmp_path: Path) -> None:
    script = (
        "import os; del os.fdatasync\n"
        "import gradlog, numpy as np\n"
        "with gradlog.open('r.zarr', k=8, durable=True, on_error='raise') as log: log.step(np.ones(9))\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=environment())
    assert open_run(tmp_path / "r.zarr").n_steps == 1


def test_recovery_reads_each_journal_once(tmp_path: Path) -> None:
    script = (
        "import gradlog, numpy as np, os, signal\n"
        "log = gradlog.open('r.zarr', like=np.zeros(9), k=8, chunk=64, on_error='raise')\n"
        "for t in range(20): log.step(np.ones(9))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment(), check=False)
    watch = (
        "import sys\n"
        "from gradlog.recorder.recovery import recover\n"
        "opened = []\n"
        "def hook(event, args):\n"
        "    if event == 'open' and args[1] is None: opened.append(str(args[0]))\n"
        "sys.addaudithook(hook)\n"
        "recover('r.zarr')\n"
        "print(sum('.journal-' in name for name in opened))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", watch], cwd=tmp_path, check=True, env=environment(), capture_output=True, text=True
    )
    assert done.stdout == "1\n"
    assert [(r.status, r.rows) for r in recover(tmp_path / "r.zarr")] == [("recovered", 0)]
    assert open_run(tmp_path / "r.zarr").n_steps == 20


@pytest.mark.parametrize("count", [2, 5])
def test_two_recoveries_at_once_agree(tmp_path: Path, count: int) -> None:
    script = (
        "import gradlog, numpy as np, os, signal\n"
        "log = gradlog.open('r.zarr', like=np.zeros(9), k=8, chunk=64, on_error='raise')\n"
        "for t in range(20): log.step(np.ones(9))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment(), check=False)
    threads = [threading.Thread(target=recover, args=(tmp_path / "r.zarr",)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert open_run(tmp_path / "r.zarr").n_steps == 20
    assert check(tmp_path / "r.zarr").problems == []
