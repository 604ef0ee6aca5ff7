"""The pages' code runs as a reader would paste it: Python blocks in order, torchrun for several ranks, the command."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gradlog.analysis

# Now and then a rank aborts inside gloo while its process ends ("terminate called without an active exception"). That
# is torch's own; any other failure counts at once.
pytestmark = pytest.mark.flaky(reruns=3, only_rerun=["SIGABRT"])

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("howto-*.md"))
ELSEWHERE = (  # without frameworks, not in one process, or with commands
    *("howto-distributed", "howto-run", "howto-report", "howto-cluster", "howto-seeds", "howto-own-predictor"),
    "howto-keras",
)
ALONE = [p for p in PAGES if p.stem not in ELSEWHERE]
FRAMEWORKS = ("torch", "jax", "optax", "keras", "lightning", "transformers")

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def blocks(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def run_of(name):
    return ROOT / "docs" / f"howto-{name}.md"


@pytest.mark.parametrize("page", ALONE, ids=lambda p: p.stem)
@pytest.mark.filterwarnings(
    # the frameworks' own, as in their tests
    "ignore:.isinstance.treespec, LeafSpec:FutureWarning",
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:Starting from v1.9.0, `tensorboardX` has been removed",
    "ignore:The number of training batches",
    "ignore:You.re resuming from a checkpoint that",
    "ignore:Be aware that when using `ckpt_path`",
    "ignore:The dirpath has changed from",
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning",
)
def test_blocks(tmp_path, monkeypatch, page):
    code = blocks(page)
    needs = set(re.findall(rf"^(?:import|from) ({'|'.join(FRAMEWORKS)})\b", "\n".join(code), re.MULTILINE))
    if absent := sorted(name for name in needs if importlib.util.find_spec(name) is None):
        pytest.skip(f"{', '.join(absent)}: not in this environment; make integrations runs this where they are")
    monkeypatch.chdir(tmp_path)
    scope: dict = {"__name__": "__main__"}
    for block in code:
        exec(compile(block, str(page), "exec"), scope)
    runs = list(tmp_path.glob("*.zarr"))
    assert runs
    for path in runs:
        assert len(gradlog.analysis.open_run(str(path)).steps)


def call(folder, *command):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def test_every_page_is_run():
    assert all(blocks(p) for p in PAGES if p.stem != "howto-run")
    assert len(PAGES) >= 8


@pytest.mark.slow
def test_keras(tmp_path, monkeypatch):
    """The second block ends the script of a job that is started again, in the place of the last lines of the first."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not in this environment; make integrations runs this where it is")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    first, again = blocks(run_of("keras"))
    before, line, after = first.partition("model = build()")
    assert len((line + after).splitlines()) == 4
    for script in (first, before + again):
        (tmp_path / "train.py").write_text(script)
        call(tmp_path, sys.executable, "train.py")
    run = gradlog.analysis.open_run(tmp_path / "keras.zarr")
    assert [segment.header.status for segment in run.segments] == ["closed", "closed"]
    assert run.steps.tolist() == list(range(24))


@pytest.mark.slow
def test_distributed(tmp_path):
    ddp, local, fsdp = blocks(run_of("distributed"))
    for script in (ddp + local, fsdp):  # a process group is made once a process
        (tmp_path / "train.py").write_text(script)
        call(tmp_path, *TORCHRUN, "--standalone", "--nproc-per-node", "2", "train.py")
    assert sorted(p.name for p in tmp_path.glob("*.zarr")) == ["ddp.zarr", "fsdp.zarr", "local.zarr"]
    ranks = {p.stem: gradlog.analysis.open_run(str(p)).info["ranks"] for p in tmp_path.glob("*.zarr")}
    assert ranks == {"ddp": 1, "fsdp": 1, "local": 2}


@pytest.mark.slow
def test_commands(tmp_path):
    (tmp_path / "package").mkdir()
    torch_script = """
import torch
w = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(w.parameters(), lr=0.1)
w(torch.ones(1, 2)).sum().backward()
optimizer.step()
"""
    for path in (tmp_path / "train.py", tmp_path / "package" / "train.py"):
        path.write_text(torch_script)
    with zipfile.ZipFile(tmp_path / "train.pyz", "w") as archive:
        archive.writestr("__main__.py", torch_script)
    lines = [line.partition(" #")[0].split() for block in blocks(run_of("run"), "bash") for line in block.splitlines()]
    assert len(lines) == 4
    for program, *words in lines:
        call(tmp_path, *{"gradlog": [Path(sys.executable).with_name("gradlog")], "torchrun": TORCHRUN}[program], *words)
    assert sorted(p.name for p in tmp_path.glob("*.zarr")) == ["a.zarr", "train-2.zarr", "train-3.zarr", "train.zarr"]
