"""``gradlog run`` records a script that knows nothing of it, and is otherwise not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

TRAIN = """
import sys, os, signal, warnings
import numpy as np
import torch
from torch import nn
torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(5, 7)
        self.head = nn.Linear(7, 2)
    def forward(self, x):
        return self.head(self.body(x).tanh())

def main(mode):
    net, other = Net(), nn.Linear(3, 3)
    wrapper = nn.ModuleDict({"net": net, "other": other})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    second = torch.optim.Adam(other.parameters())
    seen = []
    for t in range(4):
        optimizer.zero_grad()
        net(torch.randn(4, 5)).square().mean().backward()
        seen.append(np.concatenate([p.grad.numpy().ravel() for p in net.parameters()]))
        optimizer.step()
        if mode == "two":
            other(torch.randn(2, 3)).sum().backward()
            second.step()
        if t == 2 and mode == "raise":
            raise ValueError("the script's own fault")
        if t == 2 and mode == "sigint":
            os.kill(os.getpid(), signal.SIGINT)
        if t == 2 and mode == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
    np.save("seen.npy", np.stack(seen))
    print("done", __name__, sys.argv[1:])
    sys.exit(5 if mode == "exit" else None)

if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
"""


@pytest.fixture
def gradlog_run(tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)

    def call(*args):
        command = [sys.executable, "-m", "gradlog", "run", *args]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)

    return call


def test_two_optimizers(tmp_path, recorded, gradlog_run):
    done = gradlog_run("--k", "16", "train.py", "two", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done __main__ ['two', '--epochs', '3']\n"
    assert "next: gradlog analyze" in done.stderr
    assert "train-2.zarr" in done.stderr
    run = recorded(tmp_path / "train.zarr")
    assert [t.name for t in run.header.tensors] == ["body.weight", "body.bias", "head.weight", "head.bias"]
    seen = np.load(tmp_path / "seen.npy")
    np.testing.assert_allclose(run.norm2.sum(axis=1), np.square(seen).sum(axis=1), rtol=1e-5)
    assert run.steps == [0, 1, 2, 3]
    assert recorded(tmp_path / "train-2.zarr").header.dimension == 12


@pytest.mark.parametrize(("mode", "status"), [
    ("raise", 1), ("exit", 5), ("sigint", -signal.SIGINT), ("sigterm", -signal.SIGTERM),
])  # fmt: skip
def test_the_end_of_the_script_is_its_own(tmp_path, recorded, gradlog_run, mode, status):
    done = gradlog_run("-o", "out.zarr", "train.py", mode)
    assert done.returncode == status, done.stderr
    assert done.stdout == ("done __main__ ['exit']\n" if mode == "exit" else "")
    if mode == "raise":
        plain = subprocess.run(
            [sys.executable, "train.py", mode], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == plain.returncode
        assert plain.stderr.strip() in done.stderr  # the same traceback, without a frame of ours
    assert recorded(tmp_path / "out.zarr").steps == ([0, 1, 2, 3] if mode == "exit" else [0, 1, 2])


def test_an_existing_run_is_not_touched(tmp_path, gradlog_run):
    assert gradlog_run("-o", "out.zarr", "train.py").returncode == 0
    refused = gradlog_run("-o", "out.zarr", "train.py")
    assert refused.returncode != 0
    assert "--append" in refused.stderr
    assert "done" not in refused.stdout
    assert gradlog_run("-o", "out.zarr", "--append", "-m", "train").returncode == 0


def test_a_script_without_an_optimizer(tmp_path, gradlog_run):
    (tmp_path / "plain.py").write_text("print('hello')")
    done = gradlog_run("plain.py")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "nothing was recorded" in done.stderr
    assert gradlog_run("absent.py").returncode != 0
