"""A caller of the command line, and small runs to call it on."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.cli import main

SAMPLES = Path(__file__).resolve().parents[2] / "sample_logs"


@dataclasses.dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command in this process: exit code, standard output, standard error."""

    def run(*args: object) -> Outcome:
        with pytest.raises(SystemExit) as done:
            main([str(a) for a in args])
        captured = capsys.readouterr()
        return Outcome(int(done.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Record a random walk of gradients in two groups; several chunks."""

    def make(steps: int = 40, name: str = "run.zarr", k: int = 16, chunk: int = 16) -> Path:
        rng = np.random.default_rng(0)
        path = tmp_path / name
        like = {"a.weight": np.zeros((20, 5)), "b.weight": np.zeros(30)}
        with gradlog.open(path, like=like, k=k, chunk=chunk, groups="tensors", on_error="raise") as log:
            for _ in range(steps):
                grads = {name: rng.standard_normal(v.shape) for name, v in like.items()}
                log.step(grads, loss=float(rng.random()), lr=0.1)
        return path

    return make


KILLED = """
import gradlog, numpy as np, os, signal, sys
log = gradlog.open(sys.argv[1], like={"a": np.zeros(60)}, k=16, on_error="raise")
for t in range(20):
    log.step({"a": np.random.default_rng(t).standard_normal(60)})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A run of 20 steps whose writer was killed after the last."""
    path = tmp_path / "killed.zarr"
    subprocess.run([sys.executable, "-c", KILLED, path], cwd=SAMPLES.parent, check=False)
    return path


@pytest.fixture
def samples() -> Path:
    return SAMPLES


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes no files, whoever asks: for root it has to be a mount."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.geteuid() != 0:
        yield folder
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("root can write everywhere, and may not mount here")
    yield folder
    subprocess.run(["umount", folder], check=True)
