"""No verb reads, writes or deletes through a link in a run, or anything that is not provably the run's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis.audit.integrity import check
from gradlog.errors import CorruptRunError, GradlogError
from gradlog.recorder.recovery import recover
from gradlog.storage.compact import compact
from tests.helpers.forks import fork

SEGMENT = "seg-000000-r0000"


def start(path: Path, **options: object) -> gradlog.Logger:
    return gradlog.open(path, like={"w": np.zeros(12)}, **{"k": "exact", "chunk": 4, "on_error": "raise", **options})


def record(path: Path, steps: int = 10, **options: object) -> None:
    with start(path, **options) as log:
        for t in range(steps):
            log.step({"w": np.full(12, t + 1.0)})


def killed(path: Path) -> None:
    """A run of two chunks, of which the last is in its journal."""
    child = fork()
    if child == 0:
        log = start(path)
        for t in range(6):
            log.step({"w": np.full(12, t + 1.0)})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def compacted(path: Path) -> None:
    record(path)
    compact(path)


def resume(path: Path) -> None:
    record(path, 3, mode="a")


def replace(path: Path) -> None:
    record(path, 3, mode="w")


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of somebody else, with files of the names that a run's have."""
    folder = tmp_path / "victim"
    folder.mkdir()
    for name in ("c.0", "c.py", "zarr.json", "settings.json", "000000.json", "notes.partial", "zarr.json.1-1.partial"):
        (folder / name).write_text("mine")
    return folder


@pytest.mark.parametrize("verb", [compact, recover, resume, replace])
@pytest.mark.parametrize("make", [record, killed, compacted])
@pytest.mark.parametrize("place", [SEGMENT, f"{SEGMENT}/manifest", f"{SEGMENT}/step", f"{SEGMENT}/sketch"])
def test_a_folder_behind_a_link_is_left_alone(
    tmp_path: Path, victim: Path, make: Callable[[Path], None], verb: Callable[[Path], object], place: str
) -> None:
    path = tmp_path / "r.zarr"
    make(path)
    if (path / place).exists():
        for file in (path / place).glob("*"):
            if file.is_file() and not (victim / file.name).exists():
                shutil.copy(file, victim / file.name)
        shutil.rmtree(path / place)
    (path / place).symlink_to(victim, target_is_directory=True)
    before = content(victim)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(GradlogError):
            verb(path)
    assert content(victim) == before


READS = [(verb, place) for verb in (compact, recover, resume) for place in ("zarr.json", f"{SEGMENT}/zarr.json")]


@pytest.mark.parametrize(("verb", "place"), [*READS, (compact, f"{SEGMENT}/sketch/c.0.0.0")])
def test_a_file_behind_a_link_is_neither_read_nor_written(
    tmp_path: Path, verb: Callable[[Path], object], place: str
) -> None:
    path, outside = tmp_path / "r.zarr", tmp_path / "outside"
    record(path)
    (path / place).rename(outside)
    (path / place).symlink_to(outside)
    before = outside.read_bytes()
    with pytest.raises(CorruptRunError, match="link"):
        verb(path)
    assert outside.read_bytes() == before


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_journal_that_is_no_file_blocks_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    path, outside = tmp_path / "r.zarr", tmp_path / "outside"
    killed(path)
    journal = path / SEGMENT / ".journal-000001"
    before = journal.read_bytes()
    journal.rename(outside)
    if kind == "link":
        journal.symlink_to(outside)
    else:
        os.mkfifo(journal)
    for verb in (recover, resume):
        with pytest.raises(CorruptRunError, match="link"):
            verb(path)
    assert outside.read_bytes() == before


def test_what_waits_under_the_name_of_a_coming_segment_is_not_written_through(tmp_path: Path, victim: Path) -> None:
    path = tmp_path / "r.zarr"
    record(path)
    coming = path / "seg-000001-r0000"
    coming.mkdir()
    (coming / ".theta-000000.partial").symlink_to(victim / "c.0")
    (coming / ".theta-000000.new.partial").symlink_to(victim / "c.py")
    with start(path, mode="a") as log:
        log.parameters({"w": np.ones(12)})
        log.step({"w": np.ones(12)})
    assert set(content(victim).values()) == {b"mine"}
    assert [p for p in check(path).problems if "a link" not in p] == []  # the planted ones are named, and nothing else


def test_compaction_deletes_nothing_but_what_the_shards_hold(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    record(path)
    segment = path / SEGMENT
    strange = {
        segment / "sketch" / "c.notes": "a",
        segment / "manifest" / "x.json": "b",
        segment / "step" / "c.77": "c",
    }
    for file, text in strange.items():
        file.write_text(text)
    old = (segment / "step" / "c.0").read_bytes()
    compact(path)
    (segment / "step" / "c.0").write_bytes(old[:-1] + b"?")
    (segment / "flags" / "c.0.12-ab.partial").write_bytes(b"half")
    compact(path)
    assert {file: file.read_text() for file in strange} == strange
    assert (segment / "step" / "c.0").read_bytes() == old[:-1] + b"?"
    assert not (segment / "flags" / "c.0.12-ab.partial").exists()


def test_a_spool_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    if os.getuid() == 0:
        os.chown(spool, 12345, 12345)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setenv("GRADLOG_SPOOL", str(spool))
    with pytest.raises(PermissionError, match="another user"):
        gradlog.open("memory://spooled/r.zarr", like={"w": np.zeros(3)}, on_error="raise")
    assert list(spool.iterdir()) == []
