"""Several processes at one path: each mode lets one of them record, tells the others, and never mixes their rows."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.integrity import check
from gradlog.errors import GradlogWarning, RunExistsError
from gradlog.storage.sink import LocalSink
from tests.helpers.forks import fork
from tests.helpers.small_run import environment

LIKE = {"w": np.zeros(12)}


def start(path: object, **options: object) -> gradlog.Logger:
    return gradlog.open(path, like=LIKE, **{"k": "exact", "chunk": 4, "on_error": "raise", **options})


def record(path: object, value: float, steps: int, **options: object) -> None:
    with start(path, **options) as log:
        for _ in range(steps):
            log.step({"w": np.full(12, value)})


def values(path: object) -> list[float]:
    run = open_run(path, "all")
    return run.sketch.compute()[:, 0, 0].tolist()


class Child:
    """Work in a forked process; ``answer`` is what it returns, or the type of what it raises."""

    def __init__(self, work: Callable[[], object], go: int | None = None) -> None:
        self._read, write = os.pipe()
        self._pid = fork()
        if self._pid == 0:
            try:
                warnings.simplefilter("ignore")
                if go is not None:
                    os.read(go, 1)
                answer = str(work())
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(write, answer.encode())
            os._exit(0)
        os.close(write)

    @functools.cached_property
    def answer(self) -> str:
        data = b""
        while part := os.read(self._read, 4096):
            data += part
        os.close(self._read)
        os.waitpid(self._pid, 0)
        return data.decode()


def at_once(*works: Callable[[], object]) -> list[str]:
    """Answers of processes that begin together, once all of them are there."""
    go, begin = os.pipe()
    children = [Child(work, go) for work in works]
    os.write(begin, b"x" * len(works))
    answers = [child.answer for child in children]
    os.close(go)
    os.close(begin)
    return answers


def contest(path: object, mode: str) -> list[str]:
    """Answers of two processes that record 1 and 2, and close when both have tried to open."""
    tried, tell = os.pipe()
    wait, both = os.pipe()

    def rival(value: float) -> str:
        try:
            log = start(path, mode=mode)
        finally:
            os.write(tell, b"x")
        for _ in range(5):
            log.step({"w": np.full(12, value)})
        os.read(wait, 1)
        for _ in range(5):
            log.step({"w": np.full(12, value)})
        log.close()
        return log.reason or "recorded"

    go, begin = os.pipe()
    children = [Child(lambda v=value: rival(v), go) for value in (1.0, 2.0)]
    os.write(begin, b"xx")
    for _ in children:
        os.read(tried, 1)
    os.write(both, b"xx")
    answers = [child.answer for child in children]
    for fd in (tried, tell, wait, both, go, begin):
        os.close(fd)
    return answers


@pytest.mark.parametrize("mode", ["w-", "a"])
def test_of_two_processes_that_open_a_new_path_one_records(tmp_path: Path, mode: str) -> None:
    for i in range(6):
        path = tmp_path / f"{i}.zarr"
        answers = contest(path, mode)
        assert sorted(a.split(":")[0] for a in answers) == ["RunExistsError", "recorded"]
        assert values(path) == [1.0 + answers.index("recorded")] * 10
        assert check(path).problems == []


def test_of_two_processes_that_replace_a_run_the_later_one_records(tmp_path: Path) -> None:
    for i in range(6):
        path = tmp_path / f"{i}.zarr"
        record(path, 9.0, 6)
        answers = contest(path, "w")
        assert "recorded" in answers
        assert values(path) == [1.0 + answers.index("recorded")] * 10
        assert check(path).problems == []


def test_a_process_that_records_is_not_joined_by_another(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with start(path) as log:
        log.step({"w": np.ones(12)})
        answer = Child(lambda: record(path, 2.0, 3, mode="a")).answer
        assert answer.startswith("RunExistsError")
        assert f"process {os.getpid()} of this machine" in answer
        log.step({"w": np.ones(12)})
    assert Child(lambda: record(path, 2.0, 3, mode="a")).answer == "None"
    assert values(path) == [1, 1, 2, 2, 2]


def test_a_job_of_another_machine_is_taken_over_from_and_told(tmp_path: Path) -> None:
    """Whether it lives nobody can tell, as after a requeue: the new job records, the old one ends at its next flush."""
    path = tmp_path / "r.zarr"
    script = (
        "import socket, sys; here = socket.gethostname(); socket.gethostname = lambda: f'not {here}'\n"
        "import gradlog, numpy as np\n"
        "log = gradlog.open(sys.argv[1], like={'w': np.zeros(12)}, k='exact', chunk=4)\n"
        "for _ in range(6): log.step({'w': np.ones(12)})\n"
        "print('begun', flush=True)\n"
        "sys.stdin.readline()\n"
        "for _ in range(10**6):\n"
        "    log.step({'w': np.ones(12)})\n"
        "    if log.reason: break\n"
        "print(log.reason)\n"
    )
    words = [sys.executable, "-W", "ignore", "-c", script, str(path)]
    with subprocess.Popen(words, stdin=PIPE, stdout=PIPE, text=True, env=environment()) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        record(path, 2.0, 3, mode="a")
        assert "goes on from here, in seg-000001-r0000" in other.communicate("go\n")[0]
    run = open_run(path)
    assert run.steps.tolist() == list(range(9))
    assert run.sketch.compute()[:, 0, 0].tolist() == [1.0] * 6 + [2.0] * 3
    assert check(path).problems == []


def test_ranks_of_one_launch_are_no_rivals(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    answers = at_once(*(lambda r=rank: record(path, r + 1.0, 5, mode="a", rank=r) for rank in range(3)))
    assert answers == ["None"] * 3
    assert open_run(path).sketch.compute()[:, 0, 0].tolist() == [6.0] * 5


def test_a_run_is_replaced_whose_writer_lives(tmp_path: Path) -> None:
    for i in range(4):
        path = tmp_path / f"{i}.zarr"
        there, tell = os.pipe()

        def old(path: Path = path, tell: int = tell) -> str:
            log = start(path, chunk=2, on_error="warn")
            os.write(tell, b"x")
            end = time.monotonic() + 30
            while not log.reason and time.monotonic() < end:
                log.step({"w": np.ones(12)})
            log.close()
            return log.reason

        child = Child(old)
        os.read(there, 1)
        with pytest.warns(GradlogWarning, match=r"process \d+ is still recording seg-000000-r0000"):
            record(path, 7.0, 5, mode="w")
        answer = child.answer
        assert any(word in answer for word in ("replaced", "gone")), answer
        assert values(path) == [7.0] * 5
        assert check(path).problems == []
        os.close(there)
        os.close(tell)


def test_replacing_nothing_is_creating(tmp_path: Path) -> None:
    (tmp_path / "empty.zarr").mkdir()
    for name in ("new.zarr", "empty.zarr", "deep/er/new.zarr"):
        record(tmp_path / name, 1.0, 5, mode="w")
        assert values(tmp_path / name) == [1.0] * 5
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["seg-000000-r0000", "zarr.json"]


def test_a_run_is_replaced_through_a_link(tmp_path: Path) -> None:
    record(tmp_path / "run-12.zarr", 1.0, 5)
    (tmp_path / "latest.zarr").symlink_to("run-12.zarr")
    for value in (2.0, 3.0):
        record(tmp_path / "latest.zarr", value, 5, mode="w")
        assert values(tmp_path / "run-12.zarr") == [value] * 5
    assert (tmp_path / "latest.zarr").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.zarr", "run-12.zarr"]


def test_replacing_leaves_files_beside_the_run_alone_and_refuses_those_within(tmp_path: Path) -> None:
    path = tmp_path / "out"
    record(path, 1.0, 5)
    (path / "checkpoint").mkdir()
    (path / "checkpoint" / "model.pt").write_text("weights")
    (path / ".DS_Store").write_text("")
    record(path, 2.0, 5, mode="w")
    assert values(path) == [2.0] * 5
    assert (path / "checkpoint" / "model.pt").read_text() == "weights"
    (path / "seg-000001-r0000" / "model.pt").write_text("weights")
    with pytest.raises(RunExistsError, match=r"model\.pt"):
        record(path, 3.0, 5, mode="w")
    assert values(path) == [2.0] * 5


def test_a_folder_of_another_kind_of_zarr_is_not_replaced(tmp_path: Path) -> None:
    import zarr

    zarr.create_group(tmp_path / "other.zarr")
    before = (tmp_path / "other.zarr" / "zarr.json").read_bytes()
    for mode in ("w", "a", "w-"):
        with pytest.raises(ValueError, match="gradlog"):
            record(tmp_path / "other.zarr", 1.0, 3, mode=mode)
    assert (tmp_path / "other.zarr" / "zarr.json").read_bytes() == before


def test_a_temporary_file_that_is_still_a_second_name_of_the_header_harms_nothing(tmp_path: Path) -> None:
    """As a kill leaves it between link and unlink; a later process may have the number of the one that was killed."""
    import threading

    path = tmp_path / "r.zarr"
    record(path, 1.0, 5)
    old = path / f"zarr.json.{os.getpid()}-{threading.get_native_id()}.partial"
    os.link(path / "zarr.json", old)
    record(path, 2.0, 5, mode="a")
    assert values(path) == [1.0] * 5 + [2.0] * 5
    assert not old.exists()


def test_a_replacement_that_was_killed_is_tidied_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    record(path, 1.0, 5)
    left = path / "replaced.7-7.partial"
    (left / "seg-000000-r0000").mkdir(parents=True)
    (left / "zarr.json").write_text("{}")
    assert check(path).problems == []
    record(path, 2.0, 5, mode="a")
    assert not left.exists()
    assert values(path) == [1.0] * 5 + [2.0] * 5


def test_only_one_of_two_creates(tmp_path: Path) -> None:
    sink = LocalSink(tmp_path / "r")
    assert sink.create("zarr.json", [b"one"])
    assert not sink.create("zarr.json", [b"two"])
    assert sink.get("zarr.json") == b"one"
    assert os.listdir(tmp_path / "r") == ["zarr.json"]
