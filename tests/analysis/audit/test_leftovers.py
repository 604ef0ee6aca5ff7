"""What a killed writer, a killed compaction or a file manager leaves in an honest run is a remark, never a FAIL."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import audit_run, open_run
from gradlog.analysis.audit.files import Folder
from gradlog.analysis.audit.integrity import examine
from gradlog.storage.compact import compact
from gradlog.storage.sink import LocalSink

SEGMENT = "seg-000000-r0000"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with gradlog.open(tmp_path / "run.zarr", k=8, chunk=8, on_error="raise") as log:
        for t in range(20):
            log.step(np.random.default_rng(t).standard_normal(50), loss=1.0)
    return tmp_path / "run.zarr"


def remarks(path: Path) -> list[str]:
    """What the audit says beside its usual lines; it must not fail."""
    report = audit_run(path)
    assert not report.failed, [line.text for line in report.lines if line.status == "FAIL"]
    assert examine(Folder(path)).problems == []
    return [line.text for line in report.lines if line.check == "integrity"][1:]


@pytest.mark.parametrize("key", ["step/c.3.1-1", "sketch/c.0.0.0.9-9", "zarr.json.7-7", "manifest/000003.json.7-7"])
def test_a_half_written_file_is_a_remark_with_the_command_that_removes_it(path: Path, key: str) -> None:
    file = path / SEGMENT / f"{key}.partial"
    file.write_bytes(b"half")
    (said,) = remarks(path)
    assert "1 temporary files of writers" in said
    command = said.partition(": ")[2]
    assert str(path) in command
    assert os.system(command) == 0
    assert not file.exists()
    assert remarks(path) == []


@pytest.mark.parametrize("name", [".DS_Store", "._zarr.json", "Thumbs.db", ".nfs0001"])
@pytest.mark.parametrize("folder", ["", SEGMENT, f"{SEGMENT}/sketch"])
def test_files_of_the_file_manager_are_a_remark(path: Path, folder: str, name: str) -> None:
    (path / folder / name).write_bytes(b"\0")
    (said,) = remarks(path)
    assert "files of the file system's own" in said
    assert os.system(said.partition("ignored: ")[2]) == 0
    assert remarks(path) == []


def test_other_files_are_still_no_part_of_a_run(path: Path) -> None:
    for key in ("notes.txt", f"{SEGMENT}/step/c.99", f"{SEGMENT}/manifest/000009.json", f"{SEGMENT}/step/c/0"):
        (path / key).parent.mkdir(exist_ok=True)
        (path / key).write_bytes(b"x")
        if key.endswith("c/0"):  # what a compaction writes first
            assert "a compaction that was cut off" in remarks(path)[0]
        else:
            assert audit_run(path).failed
        (path / key).unlink()


def test_a_compaction_cut_off_at_any_write_is_a_remark_and_the_next_finishes_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, rows = LocalSink.put, open_run(path).rows.read(0, 20)
    for limit in range(30):
        written = 0

        def full(self: LocalSink, key: str, data: object, most: int = limit) -> None:
            nonlocal written
            written += 1
            if written > most:
                raise OSError(errno.ENOSPC, "no space left")
            put(self, key, data)

        monkeypatch.setattr(LocalSink, "put", full)
        try:
            compact(path)
        except OSError:
            said = remarks(path)
            assert limit == 0 or "gradlog compact" in said[0] or "a compaction" in said[0]
            continue
        finally:
            monkeypatch.undo()
        break
    assert remarks(path) == []
    assert np.array_equal(open_run(path).rows.read(0, 20), rows)


def test_a_compaction_cut_off_while_it_removes_the_old_files_is_a_remark(path: Path) -> None:
    old = {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file()}
    compact(path)
    for key, data in old.items():
        if "/c." in str(key) or "manifest" in str(key):
            (path / key).write_bytes(data)
    assert "files of a compaction that was cut off" in remarks(path)[0]
    compact(path)
    assert remarks(path) == []


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_coarse_sketches_pass_and_a_doubled_row_does_not(tmp_path: Path, bits: int) -> None:
    with gradlog.open(tmp_path / "r", k=256, chunk=8, sketch_bits=bits, on_error="raise") as log:
        for t in range(20):
            log.step(np.random.default_rng(t).standard_normal(5000))
    assert not audit_run(tmp_path / "r").failed
    with gradlog.open(tmp_path / "e", k="exact", chunk=8, sketch_bits=bits, on_error="raise") as log:
        for t in range(20):
            log.step(np.random.default_rng(t).standard_normal(50))
    assert not audit_run(tmp_path / "e").failed
