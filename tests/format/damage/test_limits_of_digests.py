"""What nobody can notice from the store alone is what docs/format.md lists in section 11, and exactly that."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradlog.analysis.audit.files import Folder
from gradlog.analysis.audit.integrity import examine
from gradlog.errors import GradlogError
from tests.helpers.damaged_runs import (
    SECOND,
    SEGMENT,
    Bytes,
    InMemory,
    content,
    fill,
    leave_unfinished,
    read,
    same,
    start,
)
from tests.helpers.small_run import environment


def unnoticed(files: Bytes) -> dict[str, Any]:
    assert examine(InMemory(files)).problems == []
    return read(files)


def test_the_end_of_an_unfinished_segment_may_vanish(stores: Any) -> None:
    files = stores["unfinished"][0]
    whole, last = read(files), f"{SEGMENT}/.journal-000003"
    for size in (None, 0, 11, 12, 100, len(files[last]) - 1):
        rest = {k: v for k, v in files.items() if k != last} | ({} if size is None else {last: files[last][:size]})
        found = unnoticed(rest)
        n = len(found["step"])
        assert 24 <= n < 29
        assert np.array_equal(found["sketch"], whole["sketch"][:n])


def test_journals_of_two_unfinished_ranks_cannot_be_exchanged(tmp_path: Path) -> None:
    for rank in (0, 1):
        leave_unfinished(tmp_path / "r", rank)
    files = content(tmp_path / "r")
    a, b = (f"seg-000000-r{rank:04d}/.journal-000003" for rank in (0, 1))
    with pytest.raises(GradlogError, match=r"\.journal-000003: damaged behind row 24"):
        read(files | {a: files[b], b: files[a]})


def test_a_closed_segment_may_look_killed(stores: Any) -> None:
    files, history = stores["closed"]
    for segment in (SEGMENT, SECOND):
        key = f"{segment}/zarr.json"
        assert same(unnoticed(files | {key: history[key][-1]}), read(files))


def test_the_newest_segment_and_an_older_snapshot_pass(stores: Any, tmp_path: Path) -> None:
    files = stores["closed"][0]
    assert len(unnoticed({k: v for k, v in files.items() if not k.startswith(SECOND)})["step"]) == 20
    with start(tmp_path / "r") as log:
        fill(log, range(20))
        older = content(tmp_path / "r")
        while time.sleep(0.2) or (now := content(tmp_path / "r")) != older:  # until the flush in the background is over
            older = now
        kept = log.state_dict()
        fill(log, range(20, 40))
        state = log.state_dict()
    assert len(unnoticed(older)["step"]) == 20
    # A head that was kept elsewhere tells: the chain of the older snapshot does not reach it.
    assert kept["rows"] < state["rows"]
    assert f'"head":"{state["head"]}"' not in str(older[f"{SEGMENT}/zarr.json"])


def test_leftovers_that_are_no_part_of_the_run_may_change(stores: Any) -> None:
    files = stores["recovered"][0]
    added = {
        f"{SEGMENT}/.torn-000003": b"x",
        f"{SEGMENT}/sketch/c.9.0.0.1-1.partial": b"y",
        "zarr.json.2.partial": b"z",
    }
    assert same(unnoticed(files | added), read(files))


def test_the_audit_of_a_run_that_is_being_written_raises_no_false_alarm(tmp_path: Path) -> None:
    script = (
        "import gradlog, numpy as np, sys\n"
        "with gradlog.open(sys.argv[1], like={'w': np.zeros(30)}, k=8, chunk=16, on_error='raise') as log:\n"
        "    for t in range(1500): log.step({'w': np.full(30, t + 1.0)})\n"
    )
    path, looks = tmp_path / "r.zarr", 0
    with subprocess.Popen([sys.executable, "-c", script, str(path)], env=environment()) as writer:
        while writer.poll() is None:
            if (path / SEGMENT / "zarr.json").exists():
                assert examine(Folder(path)).problems == []
                looks += 1
    assert writer.returncode == 0
    assert looks > 3
