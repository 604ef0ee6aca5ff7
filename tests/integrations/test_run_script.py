"""``gradlog run`` records a script that knows nothing of it, and is otherwise not there."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from gradlog.integrations.script import ScriptRecorder

# Now and then a rank aborts inside gloo while its process ends ("terminate called without an active exception"). That
# is torch's own; any other failure counts at once.
pytestmark = [pytest.mark.slow, pytest.mark.flaky(reruns=3, only_rerun=["SIGABRT"])]

ROOT = Path(__file__).resolve().parents[2]


def test_two_optimizers(tmp_path, recorded, gradlog_run):
    done = gradlog_run("--k", "16", "--what", "both", "train.py", "two", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done __main__ ['two', '--epochs', '3']\n"
    assert "next: gradlog analyze" in done.stderr
    assert "train.optimizer2.zarr" in done.stderr
    assert "next: gradlog analyze train.zarr\n" in done.stderr
    run = recorded(tmp_path / "train.zarr")
    assert [t.name for t in run.header.tensors] == [
        f"net.{n}" for n in ("body.weight", "body.bias", "head.weight", "head.bias")
    ]
    seen = np.load(tmp_path / "seen.npy")
    np.testing.assert_allclose(run.norm2.sum(axis=1), np.square(seen).sum(axis=1), rtol=1e-5)
    assert run.steps == [0, 1, 2, 3]
    assert run.run.updates.norms(0, 4).all()
    assert "chosen" not in run.header.provenance
    assert recorded(tmp_path / "train.optimizer2.zarr").header.dimension == 12


@pytest.mark.parametrize(("mode", "status"), [
    ("raise", 1), ("exit", 5), ("sigint", -signal.SIGINT), ("sigterm", -signal.SIGTERM),
    ("sigkill", -signal.SIGKILL),
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


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_folder_or_archive_with_a_main(tmp_path, recorded, gradlog_run, kind):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "nets.py").write_text("from torch import nn\nnet = nn.Linear(3, 1)\n")
    (folder / "__main__.py").write_text(
        "import sys, torch\nfrom nets import net\n"
        "assert __name__ == '__main__' and sys.argv[1:] == ['x'] and sys.path[0] == sys.argv[0], sys.path\n"
        "optimizer = torch.optim.SGD(net.parameters(), lr=0.1)\n"
        "net(torch.ones(2, 3)).sum().backward()\noptimizer.step()\n"
    )
    target = folder if kind == "folder" else Path(shutil.make_archive(str(tmp_path / "job"), "zip", folder))
    plain = subprocess.run([sys.executable, target, "x"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert plain.returncode == 0, plain.stderr
    done = gradlog_run(target, "x")
    assert done.returncode == 0, done.stderr
    assert recorded(tmp_path / "job.zarr").steps == [0]


@pytest.mark.parametrize("name", ["my_runpy.py", "cli/commands/run.py", "gradlog/integrations/script.py"])
def test_frames_of_a_script_whose_name_resembles_the_machinery_are_shown(tmp_path, gradlog_run, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("def inner():\n    raise ValueError('mine')\n\n\ninner()\n")
    done = gradlog_run(name)
    plain = subprocess.run([sys.executable, name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert plain.stderr.strip() in done.stderr


def test_a_script_that_cannot_be_compiled_is_told_as_python_tells_it(tmp_path, gradlog_run):
    (tmp_path / "broken.py").write_text("x = (\n")
    done = gradlog_run("broken.py")
    plain = subprocess.run([sys.executable, "broken.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == plain.returncode == 1
    assert plain.stderr.strip() in done.stderr
    assert "Traceback" not in done.stderr


EDGES = """
import atexit, gc, multiprocessing, os, pickle, sys, threading
import torch
from helper import NAME  # beside the script

class Custom:
    pass

def work(start):
    def train():
        w = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(w.parameters(), lr=0.1)
        for _ in range(3):
            w(torch.randn(4, 2)).sum().backward()
            optimizer.step()
    train()
    return os.getpid(), start

def late():
    import time
    time.sleep(0.2)
    work("thread")

if __name__ == "__main__":
    assert pickle.loads(pickle.dumps(Custom())).__class__ is Custom
    assert sys.path[0] == os.path.dirname(os.path.abspath(__file__)), sys.path
    assert NAME == "helper" and sys.argv == ["sub/edges.py"]
    sys.excepthook = lambda *what: print("hooked", what[0].__name__)
    atexit.register(print, "at exit")
    for start in ("spawn", "fork"):
        with multiprocessing.get_context(start).Pool(1) as pool:
            assert pool.apply(work, (start,))[0] != os.getpid()
    work("here")
    threading.Thread(target=late).start()
    raise KeyboardInterrupt
"""


def test_processes_threads_and_hooks_of_the_script(tmp_path, recorded, gradlog_run):
    """What it starts works; its own steps are recorded, also those that a thread takes after the last line."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "helper.py").write_text("NAME = 'helper'")
    (tmp_path / "sub" / "edges.py").write_text(EDGES)
    done = gradlog_run("sub/edges.py")
    assert done.returncode == -signal.SIGINT, done.stderr
    assert done.stdout == "hooked KeyboardInterrupt\nat exit\n"
    assert sorted(p.name for p in tmp_path.glob("*.zarr")) == ["edges.optimizer2.zarr", "edges.zarr"]
    for name in ("edges", "edges.optimizer2"):
        assert recorded(tmp_path / f"{name}.zarr").steps == [0, 1, 2]


RANKS = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1, bias=False))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    (model(torch.ones(1, 4)) * (1 + dist.get_rank())).sum().backward()
    optimizer.step()
dist.barrier()
dist.destroy_process_group()
"""


def test_torchrun(tmp_path, recorded):
    (tmp_path / "ranks.py").write_text(RANKS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, "-m", "gradlog", "run", "--k", "8", "ranks.py"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("next: gradlog analyze") == 1
    assert "nothing was recorded" not in done.stderr
    run = recorded(tmp_path / "ranks.zarr")
    assert [p.name for p in tmp_path.glob("*.zarr")] == ["ranks.zarr"]
    np.testing.assert_allclose(run.norm2.sum(axis=1), 4 * 1.5**2, rtol=1e-6)  # the mean of 1 and 2, four times


def test_runs_of_abandoned_optimizers_end(tmp_path, nobody_else_trains):
    """A search over settings makes many; none of them is kept alive."""
    recorder = ScriptRecorder(tmp_path / "r.zarr", k=8)

    def trial():
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return weakref.ref(model)

    models = [trial() for _ in range(3)]
    gc.collect()
    assert [m() for m in models] == [None] * 3
    trial()
    assert [log.active for _, log in recorder.runs] == [False] * 3 + [True]
    recorder.close()
    assert not any(log.active for _, log in recorder.runs)
    assert len(list(tmp_path.glob("r*.zarr"))) == 4


def test_an_attach_that_fails_leaves_the_script_alone(tmp_path, capsys, nobody_else_trains):
    recorder = ScriptRecorder(tmp_path / "r.zarr", groups=lambda name: 1 / 0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.step()
    recorder.close()
    assert recorder.runs == []
