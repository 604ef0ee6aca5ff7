"""The journal of golden stores whose writer was killed: read as it is, cut, changed, and taken over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.files import Folder
from gradlog.analysis.audit.integrity import examine
from gradlog.errors import CorruptRunError
from gradlog.format.chain import NO_CHECK, seal
from gradlog.format.journal import frame, head, owner, read_journal
from gradlog.storage.liveness import process_identity
from tests.helpers.golden import GOLDEN, SEGMENT, expected, make, same, second, segment_rows


def test_a_record_kind_of_a_newer_minor_version_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    shutil.copytree(GOLDEN / "killed.zarr", path)
    journal = path / SEGMENT / ".journal-000002"
    data = journal.read_bytes()
    journal.write_bytes(data[:12] + frame(b"Zwhat comes later") + data[12:])
    assert len(open_run(path).steps) == 21
    assert len(second.Run(path).segments[SEGMENT].rows["step"]) == 21


def owner_of(path: Path) -> str:
    return owner(json.loads((path / "zarr.json").read_bytes())["attributes"]["gradlog"]["uuid"], SEGMENT)


def journal_of(path: Path) -> Path:
    (journal,) = (path / SEGMENT).glob(".journal-*")
    return journal


class TestTail:
    """The golden store that was killed, and what may happen to its journal."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        shutil.copytree(GOLDEN / "killed.zarr", tmp_path / "r.zarr")
        return tmp_path / "r.zarr"

    @pytest.mark.parametrize("store", ["killed", "updates"])
    def test_cut_anywhere_it_is_a_shorter_run(self, tmp_path: Path, store: str) -> None:
        path = shutil.copytree(GOLDEN / f"{store}.zarr", tmp_path / "cut.zarr")
        journal = journal_of(path)
        data = journal.read_bytes()
        for size in range(0, len(data), 29):
            journal.write_bytes(data[:size])
            steps = open_run(path).steps
            assert steps.tolist() == list(range(len(steps)))
            assert 16 <= len(steps) <= 21
            assert second.Run(path).segments[SEGMENT].rows["step"].tolist() == steps.tolist()
            assert examine(Folder(path)).problems == []

    def test_every_changed_bit_of_a_whole_record_is_refused(self, path: Path) -> None:
        journal = journal_of(path)
        data = journal.read_bytes()
        whole = len(data) - journal_tail(data)
        for at in range(whole):
            for bit in range(8):
                changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
                assert read_journal(changed, owner_of(path), 1, 8).damaged, (at, bit)
        for at in (0, 5, 13, 21, 60, whole - 1):
            journal.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert [p for p in examine(Folder(path)).problems if "damaged behind row" in p]
            with pytest.raises(CorruptRunError, match=r"\.journal-000002: damaged behind row"):
                open_run(path)
            with pytest.raises(second.Refused):
                second.Run(path)

    def test_a_hole_is_refused_and_named(self, path: Path) -> None:
        journal = journal_of(path)
        data = journal.read_bytes()
        journal.unlink()
        (path / SEGMENT / ".journal-000003").write_bytes(head(3, owner_of(path)) + data[12:])
        with pytest.raises(CorruptRunError, match=r"rows 16 to 23 before it are missing; \.journal-000002 held them"):
            open_run(path)
        assert examine(Folder(path)).problems == [
            f"{SEGMENT}/.journal-000003: rows 16 to 23 before it are missing; .journal-000002 held them"
        ]
        with pytest.raises(second.Refused, match="hole"):
            second.Run(path)

    def test_one_under_another_number_is_refused(self, path: Path) -> None:
        journal_of(path).rename(path / SEGMENT / ".journal-000003")
        with pytest.raises(CorruptRunError, match="holds rows of chunk 2"):
            open_run(path)

    def test_it_does_not_count_once_it_was_taken_over(self, path: Path) -> None:
        """Its writer was of this host and is gone: no process of that number began when it did."""
        written_by(path, {**process_identity(), "started": "never"})
        left = journal_of(path).read_bytes()
        continue_run(path)
        rows = segment_rows(open_run(path))[SEGMENT]
        assert same(rows["sketch"], expected("killed")[SEGMENT]["sketch"])
        (path / SEGMENT / ".journal-000002").write_bytes(left)  # as if killed before it was removed
        assert len(open_run(path).steps) == 21
        assert examine(Folder(path)).problems == []
        assert any("left over" in note for note in examine(Folder(path)).notes)

    def test_it_is_left_to_a_writer_of_another_host(self, path: Path) -> None:
        """Nobody here can tell whether that one lives: its rows are read, and its file stays as it is."""
        written_by(path, {**process_identity(), "host_id": "another"})
        left = journal_of(path).read_bytes()
        continue_run(path)
        assert journal_of(path).read_bytes() == left
        assert open_run(path).steps.tolist() == list(range(21))
        assert examine(Folder(path)).problems == []


def written_by(path: Path, process: dict[str, Any]) -> None:
    """Say in the golden store which process wrote it: who lives is a fact about this machine, not about the store."""
    meta = json.loads((path / SEGMENT / "zarr.json").read_bytes())
    meta["attributes"]["gradlog_segment"] |= {"process": process, "check": NO_CHECK}
    (path / SEGMENT / "zarr.json").write_bytes(seal(json.dumps(meta, separators=(",", ":")).encode()))


def continue_run(path: Path) -> None:
    """Open a golden store to go on with it, and close it."""
    like = {name: np.zeros(shape, np.float32) for name, shape in make.SHAPES.items()}
    gradlog.open(path, like, mode="a", on_error="raise", k=8, chunk=8, seed=5, groups="all").close()


def journal_tail(data: bytes) -> int:
    """Bytes of the record that was cut short."""
    at = 12
    while at + 8 <= len(data) and at + 8 + int.from_bytes(data[at : at + 4], "little") <= len(data):
        at += 8 + int.from_bytes(data[at : at + 4], "little")
    return len(data) - at
