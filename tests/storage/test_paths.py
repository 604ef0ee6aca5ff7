"""Where a run goes: the same place wherever the process is by then, and beside an earlier run where that is asked."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.comparison.analyze_each import find
from gradlog.errors import GradlogWarning, RunExistsError
from gradlog.recorder import earlier_runs
from gradlog.storage import paths
from tests.helpers.small_run import environment, gradient, start

pytestmark = pytest.mark.filterwarnings("ignore::gradlog.errors.GradlogWarning")

ROW = {"w": np.ones(5)}


def test_a_run_stays_in_the_folder_where_it_was_opened(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    logs = [gradlog.open("late.zarr", k=8), gradlog.open(Path("early.zarr"), like=ROW, k=8)]
    monkeypatch.chdir(there)
    for log in logs:
        log.step(ROW)
        log.join({"v": np.ones(3)})
        log.step({"w": np.ones(5), "v": np.ones(3)})
        log.close()
    assert sorted(os.listdir(here)) == ["early.zarr", "late.zarr"]
    assert os.listdir(there) == []
    assert open_run(here / "late.zarr").steps.tolist() == open_run(here / "early.zarr").steps.tolist() == [0, 1]


def test_the_spool_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADLOG_SPOOL", "waiting")
    monkeypatch.chdir(tmp_path)
    with gradlog.open("memory://paths/spooled.zarr", like=ROW, k=8) as log:
        (tmp_path / "sub").mkdir()
        monkeypatch.chdir(tmp_path / "sub")
        log.step(ROW)
    assert os.listdir(tmp_path / "sub") == []


def test_a_tilde_is_the_home_folder_for_writers_and_readers(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with gradlog.open("~/runs/a.zarr", like=ROW, k=8) as log:
        log.step(ROW)
    assert os.listdir(tmp_path) == ["home"]
    assert open_run("~/runs/a.zarr").n_steps == 1
    assert len(find("~/runs/*.zarr")[0]) == 1


def test_a_second_run_of_a_name_is_numbered_where_that_is_asked(tmp_path):
    path = tmp_path / "r.zarr"
    for rows in (1, 2, 3):
        with start(path, mode="new") as log:
            for t in range(rows):
                log.step(gradient(t))
    assert log.path == str(tmp_path / "r-3.zarr")
    assert [open_run(p).n_steps for p in earlier_runs.runs(str(path))] == [1, 2, 3]
    with pytest.raises(RunExistsError, match='mode="new"'):
        start(path)


def test_a_numbered_run_says_where_it_is(tmp_path):
    start(tmp_path / "r.zarr").close()
    with pytest.warns(GradlogWarning, match=r"r-2\.zarr: .*r\.zarr is there already"):
        start(tmp_path / "r.zarr", mode="new").close()


def test_a_closed_logger_that_is_used_again_says_so_once(tmp_path):
    log = start(tmp_path / "r.zarr")
    log.step(gradient(0))
    log.close()
    with pytest.warns(GradlogWarning, match=r'step\(\) after close\(\) records nothing.*mode="new"') as told:
        for t in range(3):
            log.step(gradient(t))
            log.annotate(loss=1.0)
    assert len(told) == 1
    assert open_run(tmp_path / "r.zarr").n_steps == 1


def test_what_is_no_run_keeps_its_name(tmp_path):
    (tmp_path / "r.zarr").mkdir()
    (tmp_path / "r.zarr" / "zarr.json").write_text("{}")
    (tmp_path / "r-2.zarr").write_text("mine")
    with start(tmp_path / "r.zarr", mode="new") as log:
        log.step(gradient(0))
    assert os.path.basename(log.path) == "r-3.zarr"
    assert (tmp_path / "r-2.zarr").read_text() == "mine"


def test_on_an_object_store_too():
    for _ in range(2):
        with gradlog.open("memory://paths/r.zarr", like=ROW, k=8, mode="new") as log:
            log.step(ROW)
    assert log.path == "memory://paths/r-2.zarr"
    assert earlier_runs.newest("memory://paths/r.zarr") == "memory://paths/r-2.zarr"
    assert earlier_runs.with_uuid("memory://paths/r.zarr", log.header.uuid) == log.path


def _race(path: str, barrier: Barrier, value: int) -> None:
    barrier.wait()
    with gradlog.open(path, like=np.zeros(50), k=8 * value, mode="new", on_error="raise") as log:
        for _ in range(3):
            log.step(np.full(50, float(value)))


def test_processes_that_choose_at_once_get_a_run_each(tmp_path):
    context, writers = multiprocessing.get_context("fork"), 3
    for attempt in range(3):
        path, barrier = str(tmp_path / f"{attempt}" / "r.zarr"), context.Barrier(writers)
        Path(path).parent.mkdir()
        crowd = [context.Process(target=_race, args=(path, barrier, 1 + i // 2)) for i in range(writers)]
        for process in crowd:
            process.start()
        for process in crowd:
            process.join()
        found = [open_run(p, "all") for p in earlier_runs.runs(path)]
        assert [process.exitcode for process in crowd] == [0] * writers
        assert [(run.n_steps, len(run.segments)) for run in found] == [(3, 1)] * writers
        assert sorted(run.group_norm2[0, 0] for run in found) == [50, 50, 200]


NAMES = st.text("ab-.2optimizer[*", min_size=1, max_size=12).filter(lambda s: s.strip("."))


@given(NAMES, st.integers(2, 50), st.integers(2, 50))
def test_no_number_of_a_run_names_another_optimizer(stem, run, optimizer):
    path = f"/d/{stem}.zarr"
    assert paths.of_run(path, run) != paths.of_optimizer(path, optimizer)
    assert paths.of_optimizer(paths.of_run(path, run), optimizer) != paths.of_run(
        paths.of_optimizer(path, optimizer), run
    )


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/"), min_size=1, max_size=8))
def test_the_name_that_is_shown_is_one_word_of_a_shell(name):
    if name in (".", ".."):
        return
    import shlex

    (word,) = shlex.split(paths.shown(f"/data/{name}", "/data"))
    assert os.path.normpath(os.path.join("/data", word)) == f"/data/{name}"
    assert not word.startswith("-")


def test_a_folder_of_the_very_name_is_no_pattern(tmp_path):
    for folder in ("a[1]", "a1"):
        with start(tmp_path / folder / "r.zarr") as log:
            log.step(gradient(0))
    assert find(str(tmp_path / "a[1]" / "*.zarr"))[0] == [str(tmp_path / "a[1]" / "r.zarr")]
    assert find(str(tmp_path / "a[0-9]" / "*.zarr"))[0] == [str(tmp_path / "a1" / "r.zarr")]


def test_a_folder_of_links_is_read(tmp_path):
    with start(tmp_path / "elsewhere" / "r.zarr") as log:
        log.step(gradient(0))
    links = tmp_path / "links"
    links.mkdir()
    (links / "best.zarr").symlink_to(tmp_path / "elsewhere" / "r.zarr")
    (links / "loop").symlink_to(links)
    assert find(str(links))[0] == [str(links / "best.zarr")]


@pytest.mark.parametrize(("ending", "status", "reason"), [
    ("raise ValueError('bad  data')", "failed", "training ended by ValueError: bad data"),
    ("raise KeyboardInterrupt", "failed", "training ended by KeyboardInterrupt"),
    ("sys.exit(0)", "closed", ""),
    ("pass", "closed", ""),
])  # fmt: skip
def test_a_process_that_an_exception_ends_says_so_in_the_store(tmp_path, ending, status, reason):
    script = f"import gradlog, sys, numpy as np\nlog = gradlog.open('r.zarr', k=8)\nlog.step(np.ones(9))\n{ending}\n"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False, env=environment(), capture_output=True)
    info = open_run(tmp_path / "r.zarr").info
    assert (info["status"], info["reason"], info["steps"]) == (status, reason, 1)
