from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.cli.app import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.zarr"
    theta = np.zeros(30, np.float32)
    with gradlog.open(path, k=8, chunk=8, on_error="raise") as log:
        for t in range(21):
            if t in (0, 10, 20):
                np.savez(tmp_path / f"{t}.npz", w=theta)
            g = np.random.default_rng(t).standard_normal(30).astype(np.float32)
            theta = theta - np.float32(0.1) * g
            log.step(g, lr=0.1)
    return path


def statuses(out: str, check: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines() if line.split()[1:2] == [check]]


def test_a_sound_run_passes_before_and_after_compaction(path: Path, capsys: Capture) -> None:
    assert run(["audit", str(path)]) == 0
    assert run(["compact", str(path)]) == 0
    assert run(["audit", str(path), "--json"]) == 0
    out = capsys.readouterr().out
    assert "PASS" in out
    assert "files, now" in out
    report = json.loads(out[out.index("{") :])
    assert report["passed"] is True
    assert report["schema"] == "gradlog.audit/1"
    assert report["counts"]["fail"] == 0


def test_a_changed_byte_fails(path: Path, capsys: Capture) -> None:
    chunk = path / "seg-000000-r0000/group_norm2/c.1.0"
    data = bytearray(chunk.read_bytes())
    data[-3] ^= 4
    chunk.write_bytes(data)
    assert run(["audit", str(path)]) == 1
    captured = capsys.readouterr()
    said = " ".join(captured.out.split())
    assert "FAIL integrity seg-000000-r0000/group_norm2/c.1.0: bytes contradict the manifest" in said
    lines = captured.out.splitlines()
    assert "it contradicts itself or what you kept (1 FAIL, " in lines[0]
    assert lines[1].startswith("FAIL")
    assert set(statuses(captured.out, "norms")) == {"SKIP"}
    assert captured.err == f"gradlog: {path}: 1 finding failed, 0 warnings\n"


def test_warnings_count_when_asked(path: Path) -> None:
    assert run(["audit", str(path)]) == 0
    assert run(["audit", str(path), "--strict"]) == 1


def test_the_digest_is_one_line(path: Path, capsys: Capture) -> None:
    assert run(["audit", str(path), "--digest"]) == 0
    shell = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    made = subprocess.run(["bash", "-c", shell], cwd=path, capture_output=True, text=True, check=True).stdout
    assert capsys.readouterr().out == made.split()[0] + "\n"


def test_what_was_kept_elsewhere(path: Path, tmp_path: Path, capsys: Capture) -> None:
    shell = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum > ../run.sha256"
    subprocess.run(["bash", "-c", shell], cwd=path, check=True)
    head = gradlog.format.chain.digest((path / "seg-000000-r0000/manifest/000001.json").read_bytes())
    kept = [f"--checkpoint={t}={tmp_path / f'{t}.npz'}" for t in (0, 10, 20)]
    options = ["--manifest", str(tmp_path / "run.sha256"), "--head", head, "--sgd", *kept]
    assert run(["audit", str(path), *options]) == 0
    out = capsys.readouterr().out
    assert statuses(out, "manifest") == statuses(out, "head") == ["PASS"]
    assert statuses(out, "checkpoints") == ["PASS", "PASS"]
    assert run(["audit", str(path), "--head", "00"]) == 1


def test_replay_runs_the_auditors_script(path: Path, tmp_path: Path, capsys: Capture) -> None:
    script = tmp_path / "replay.py"
    script.write_text(
        "import numpy as np\n\n\ndef gradient(step):\n    return np.random.default_rng(step).standard_normal(30)\n"
    )
    assert run(["audit", str(path), "--replay", str(script), "--replay-steps", "4"]) == 0
    assert statuses(capsys.readouterr().out, "replay") == ["PASS"]


def test_a_second_run(path: Path, capsys: Capture) -> None:
    assert run(["audit", str(path), str(path)]) == 0
    assert "both are copies of one run" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [["--checkpoint", "5"], ["--checkpoint", "x=y"], ["--checkpoint", "5=none.pt"], ["--manifest", "none"],
                ["--replay", "none.py"], ["--replay-steps", "0"], ["--sgd"]], ids=" ".join)  # fmt: skip
def test_wrong_usage(path: Path, options: list[str]) -> None:
    assert run(["audit", str(path), *options]) == 2


def test_not_a_run(tmp_path: Path) -> None:
    assert run(["audit", str(tmp_path)]) == 3
    assert run(["compact", str(tmp_path)]) == 3
    assert run(["audit", str(tmp_path), "--digest"]) == 3


def test_help_loads_no_analyzer() -> None:
    code = "import sys\nfrom gradlog.cli.app import run\nrun(['audit', '--help'])\nassert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_of_a_zip_the_bytes_alone_are_vouched_for(path: Path, tmp_path: Path, capsys: Capture) -> None:
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", path.parent, path.name)
    assert run(["audit", archive]) == 0
    assert "what they hold was not looked at" in capsys.readouterr().out
    assert run(["audit", archive, "--strict"]) == 1
    assert capsys.readouterr().err == (
        f"gradlog: {archive}: --strict: what its files hold was not looked at; "
        "unpack or copy the run to a local folder\n"
    )
