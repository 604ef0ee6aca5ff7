"""FSDP2 as Accelerate (Hugging Face Trainer) and Lightning set it up: two gloo ranks, against whole gradients.

Every step's gradient is gathered from its shards by a hook of the script's own, and must be what the run has.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.flaky(reruns=3, only_rerun=["SIGABRT", "-6"])]

SPY = """
import os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from torch import nn
torch.set_num_threads(1)
seen = []

def whole(model):
    grads = {n: p.grad.full_tensor().numpy().copy() for n, p in model.named_parameters()}
    seen.append({n.removeprefix("_forward_module."): g for n, g in grads.items()})

def save():
    if os.environ["RANK"] == "0":
        np.savez("grads.npz", **{f"{t} {n}": g for t, grads in enumerate(seen) for n, g in grads.items()})
"""

TRAINER = """
from accelerate.state import DistributedType, PartialState
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
from gradlog.integrations.transformers import GradlogCallback

class Spy(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        whole(model)

torch.manual_seed(0)
size = dict(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None)
model = GPT2LMHeadModel(GPT2Config(**size))
data = [{"input_ids": row, "labels": row} for row in torch.randint(40, (64, 8))]
wrap = {"fsdp_version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "transformer_layer_cls_to_wrap": ["GPT2Block"]}
args = TrainingArguments("out", per_device_train_batch_size=4, max_steps=4, logging_steps=1, use_cpu=True, report_to=[],
                         save_strategy="no", max_grad_norm=0.1, disable_tqdm=True, fsdp=True, fsdp_config=wrap)
args.device  # Accelerate shards on accelerators only: let the CPU pass for one
PartialState().distributed_type = DistributedType.MULTI_GPU
log = GradlogCallback("r.zarr", k=48, on_error="raise")
trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[Spy(), log])
trainer.train()
assert all(type(p).__name__ == "DTensor" for p in trainer.model.parameters())
save()
"""

LIGHTNING = """
import lightning
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from gradlog.integrations.lightning import GradlogCallback

class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(10, 21), nn.Tanh(), nn.Linear(21, 3))

    def configure_model(self):
        mesh = self.device_mesh["data_parallel"]
        for layer in (self.net[0], self.net[2], self.net):
            fully_shard(layer, mesh=mesh)

    def training_step(self, batch, i):
        return self.net(batch).square().mean()

    def on_before_optimizer_step(self, optimizer):
        whole(self)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
log = GradlogCallback("r.zarr", k=48, on_error="raise")
trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy=strategy, max_steps=4, callbacks=[log], **quiet)
trainer.fit(Net(), torch.utils.data.DataLoader(torch.randn(64, 10), batch_size=4))
save()
"""


@pytest.mark.parametrize(("script", "package"), [(TRAINER, "accelerate"), (LIGHTNING, "lightning")],
                         ids=["transformers", "lightning"])  # fmt: skip
def test_two_ranks_of_a_framework_record_the_whole_gradient(tmp_path, recorded, script, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    (tmp_path / "train.py").write_text(SPY + script)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    gradients = [{} for _ in range(4)]
    for key, g in np.load(tmp_path / "grads.npz").items():
        t, _, name = key.partition(" ")
        gradients[int(t)][name] = g
    run = recorded(tmp_path / "r.zarr")
    run.expect(gradients)
    assert np.isfinite(run.scalars["loss"]).all()
