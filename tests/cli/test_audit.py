from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.cli.app import run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.zarr"
    with gradlog.open(path, k=8, chunk=8, on_error="raise") as log:
        for t in range(20):
            log.step(np.full(30, float(t)))
    return path


def test_a_sound_run_passes_before_and_after_compaction(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", str(path)]) == 0
    assert run(["compact", str(path)]) == 0
    assert run(["audit", str(path), "--json"]) == 0
    out = capsys.readouterr().out
    assert "PASS" in out
    assert "files, now" in out
    assert json.loads(out[out.index("{") :])["passed"] is True


def test_a_changed_byte_fails(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chunk = path / "seg-000000-r0000/group_norm2/c.1.0"
    data = bytearray(chunk.read_bytes())
    data[5] ^= 4
    chunk.write_bytes(data)
    assert run(["audit", str(path)]) == 1
    captured = capsys.readouterr()
    assert "FAIL  seg-000000-r0000/group_norm2/c.1.0: bytes contradict the manifest" in captured.out
    assert captured.err.count("\n") == 1


def test_not_a_run(tmp_path: Path) -> None:
    assert run(["audit", str(tmp_path)]) == 3
    assert run(["compact", str(tmp_path)]) == 3
