"""``gradlog run`` started again, over several optimizers and modules, after a checkpoint, and stopped half way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gradlog
from gradlog.analysis import open_run
from gradlog.cli.app import run as command
from gradlog.integrations.torch.optimizers.modules import modules_of
from gradlog.integrations.torch.optimizers.optimizer import counted, settings
from tests.integrations.warm import gradlog_run, server

__all__ = ["gradlog_run", "server"]

pytestmark = pytest.mark.filterwarnings("ignore::gradlog.errors.GradlogWarning")


def stores(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*.zarr"))


@pytest.mark.slow
def test_a_script_that_is_started_again(tmp_path, gradlog_run):
    """It is numbered; the newest is continued, or replaced; and no number is a further optimizer's name."""
    for options in ([], [], ["--append"], ["--force"]):
        done = gradlog_run("--k", "8", *options, "train.py", "two")
        assert done.returncode == 0, done.stderr
    both = ["train-2.optimizer2.zarr", "train-2.zarr", "train.optimizer2.zarr", "train.zarr"]
    assert stores(tmp_path) == both
    assert [open_run(tmp_path / name).n_steps for name in both] == [4] * 4
    assert gradlog_run("--append", "--force", "train.py").returncode == 2


@pytest.mark.slow
def test_append_counts_on_and_says_so(tmp_path, gradlog_run):
    assert gradlog_run("-o", "r.zarr", "--k", "8", "train.py").returncode == 0
    done = gradlog_run("-o", "r.zarr", "--k", "8", "--append", "train.py")
    assert "r.zarr goes on at step 4" in done.stderr
    assert "--from-step N" in done.stderr
    done = gradlog_run("-o", "r.zarr", "--k", "8", "--append", "--from-step", "6", "train.py")
    assert "goes on" not in done.stderr
    assert open_run(tmp_path / "r.zarr").steps.tolist() == list(range(10))


@pytest.mark.slow
def test_what_is_left_of_another_run_is_found_before_the_script_starts(tmp_path, gradlog_run):
    (tmp_path / "out.optimizer2.zarr").mkdir()
    done = gradlog_run("-o", "out.zarr", "train.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert "out.optimizer2.zarr exists" in done.stderr
    assert gradlog_run("-o", "out.zarr", "--new", "--k", "8", "train.py", "two").returncode == 0
    assert stores(tmp_path) == ["out-2.optimizer2.zarr", "out-2.zarr", "out.optimizer2.zarr"]


RESUMED = """
import os, sys, torch
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.Adam(model.parameters())
first = 0
if os.path.exists("checkpoint.pt"):
    first, state = torch.load("checkpoint.pt")
    optimizer.load_state_dict(state)
for t in range(first, first + 6):
    optimizer.zero_grad()
    (model(torch.full((1, 4), 1.0 + t)).sum()).backward()
    optimizer.step()
    if t == 3 and not first:
        torch.save((t + 1, optimizer.state_dict()), "checkpoint.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("again", [["--append"], []])
def test_steps_after_a_checkpoint_are_those_that_the_optimizer_counts(tmp_path, gradlog_run, recorded, again):
    (tmp_path / "train.py").unlink()
    (tmp_path / "job.py").write_text(RESUMED)
    assert gradlog_run("--k", "8", "job.py").returncode == 0
    done = gradlog_run("--k", "8", *again, "job.py")
    assert "goes on at step 4, which the optimizer has counted" in done.stderr
    run = recorded(tmp_path / ("job.zarr" if again else "job-2.zarr"))
    assert run.steps == list(range(0 if again else 4, 10))
    expected = [4 * (1.0 + t) ** 2 + 1 for t in run.steps]  # of the sum over a batch of one, weights and bias
    np.testing.assert_allclose(run.norm2.sum(axis=1), expected, rtol=1e-5)


ACTOR_CRITIC = """
import os, torch
torch.manual_seed(0)

class Q(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)
    def forward(self, x):
        return self.fc2(self.fc1(x).relu())

def main():
    qf1, qf2 = Q(), Q()
    optimizer = torch.optim.Adam(list(qf1.parameters()) + list(qf2.parameters()))
    for _ in range(3):
        optimizer.zero_grad()
        x = torch.randn(8, 4)
        (qf1(x) ** 2 + qf2(x) ** 2).mean().backward()
        optimizer.step()
    os.chdir("/")

main()
"""


@pytest.mark.slow
def test_one_optimizer_over_two_models(tmp_path, gradlog_run, recorded):
    """Each is called as the script calls it, and the command that is printed works in the folder it is printed in."""
    (tmp_path / "sac.py").write_text(ACTOR_CRITIC)
    done = gradlog_run("-o", "my runs/sac.zarr", "sac.py")
    assert done.returncode == 0, done.stderr
    assert "next: gradlog analyze 'my runs/sac.zarr'\n" in done.stderr
    run = recorded(tmp_path / "my runs" / "sac.zarr")
    assert run.run.info["groups"] == ["qf1.fc1", "qf1.fc2", "qf2.fc1", "qf2.fc2"]
    assert [t.name for t in run.header.tensors][:2] == ["qf1.fc1.weight", "qf1.fc1.bias"]


def test_names_are_the_same_however_a_model_is_recorded(tmp_path):
    """The whole model, and not the part of it that holds as many parameters: tied weights, or a frozen body."""
    body, head = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    model = torch.nn.ModuleDict({"transformer": torch.nn.ModuleDict({"h": body}), "head": head})
    tied = torch.optim.SGD(body.parameters(), lr=0.1)
    with gradlog.attach(tied, tmp_path / "a.zarr", model=model, k=4) as log:
        by_hand = [t.name for t in log.header.tensors]
    with gradlog.attach(tied, tmp_path / "b.zarr", model=modules_of(tied), k=4) as log:
        assert [t.name for t in log.header.tensors] == by_hand == ["transformer.h.weight", "transformer.h.bias"]


def test_several_models_by_hand(tmp_path):
    first, second = torch.nn.Linear(3, 1), torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model={"first": first, "second": second}, k=4) as log:
        by_hand = [t.name for t in log.header.tensors]
    assert by_hand == ["first.weight", "first.bias", "second.weight", "second.bias"]
    assert list(modules_of(optimizer)) == ["first", "second"]  # found as what this function calls them
    with pytest.raises(TypeError, match="dict of them"):
        gradlog.attach(optimizer, tmp_path / "x.zarr", model=[first, second])


def test_models_that_nothing_names_are_numbered():
    optimizer = torch.optim.SGD([p for m in [torch.nn.Linear(2, 1) for _ in "ab"] for p in m.parameters()], lr=0.1)
    assert list(modules_of(optimizer)) == []  # their modules are gone
    kept = [torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)]
    optimizer = torch.optim.SGD([p for m in kept for p in m.parameters()], lr=0.1)
    assert list(modules_of(optimizer)) == ["Linear0", "Linear1"]


def test_the_optimizer_is_recorded_and_shown(tmp_path, capsys):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": torch.tensor(0.5)}]
    optimizer = torch.optim.AdamW(groups, lr=0.25, betas=(0.8, 0.9))
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k=4, on_error="raise"):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
    kept = open_run(tmp_path / "r.zarr").info["provenance"]["optimizer"]
    assert kept["class"] == "torch.optim.adamw.AdamW"
    assert kept["settings"]["betas"] == [0.8, 0.9]
    assert kept["groups"] == [{"lr": 0.25}, {"lr": 0.5}]
    assert settings(optimizer)["groups"] == kept["groups"]
    assert counted(optimizer) == 3
    assert command(["info", str(tmp_path / "r.zarr")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "optimizer AdamW: betas 0.8 0.9" in shown
    assert "group 1: lr 0.5" in shown


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "said"), [
    ("raise", "ended early, after step 2: training ended by ValueError: the script's own fault"),
    ("sigint", "ended early, after step 2: training ended by KeyboardInterrupt"),
    ("exit", "ended early, after step 3: training ended by SystemExit: 5"),
    ("sigkill", "ended early, after step 2: the process that recorded it is gone and did not close it"),
    ("plain", ""),
])  # fmt: skip
def test_the_first_line_of_info_tells_how_a_run_ended(tmp_path, gradlog_run, capsys, mode, said):
    gradlog_run("-o", "out.zarr", "--k", "8", "train.py", mode)
    assert command(["info", str(tmp_path / "out.zarr")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"{tmp_path / 'out.zarr'}" + (f": {said}" if said else "")


def test_a_run_that_goes_on_says_so_first(tmp_path, capsys):
    with gradlog.open(tmp_path / "r.zarr", like=np.zeros(3), k=8) as log:
        log.step(np.ones(3))
        assert command(["info", str(tmp_path / "r.zarr")]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("r.zarr: being recorded, after step 0")


@pytest.mark.slow
def test_two_scripts_at_once_get_a_run_each(tmp_path, gradlog_run):
    (tmp_path / "train.py").write_text(RESUMED)
    program = [sys.executable, "-m", "gradlog", "run", "--k", "8", "train.py"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    both = [subprocess.Popen(program, cwd=tmp_path, env=env, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        process.communicate(timeout=120)
    assert [process.returncode for process in both] == [0, 0]
    assert stores(tmp_path) == ["train-2.zarr", "train.zarr"]
    assert [len(open_run(tmp_path / name).segments) for name in stores(tmp_path)] == [1, 1]
