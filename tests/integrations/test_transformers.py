"""The Trainer callback against gradients read in ``on_pre_optimizer_step``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from gradlog.integrations.transformers import GradlogCallback


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, 90)
        self.head = nn.Linear(90, 3)

    def forward(self, x, labels):
        logits = self.head(self.body(x).relu())
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Spy(TrainerCallback):
    def __init__(self):
        self.seen = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen[state.global_step] = {n: p.grad.numpy().copy() for n, p in model.named_parameters()}


def data(n=64):
    rng = np.random.default_rng(0)
    return [{"x": torch.tensor(rng.normal(size=12), dtype=torch.float32), "labels": i % 3} for i in range(n)]


def trainer(folder, spy, callback, **options):
    torch.manual_seed(0)
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.5,
        "max_steps": 6,
        "logging_steps": 1,
        "save_steps": 3,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
    }
    args = TrainingArguments(**{**defaults, **options})
    return Trainer(model=Net(), args=args, train_dataset=data(), callbacks=[spy, callback])


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch", "sgd"])
def test_rows_are_what_the_optimizer_consumed(tmp_path, recorded, optim):
    spy = Spy()
    trainer(tmp_path / "out", spy, GradlogCallback(tmp_path / "r.zarr", k=24, on_error="raise"), optim=optim).train()
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == list(range(6))
    run.expect([spy.seen[t] for t in run.steps])
    assert run.run.info["groups"] == ["body", "head"]
    assert np.isfinite(run.scalars["loss"]).all()
    assert run.header.provenance["notes"] == {"batch_size": 8, "steps_per_epoch": 8}
    assert (run.scalars["clip_coef"] < 1).any()
    assert (np.sqrt(run.norm2.sum(axis=1)) < 0.5 + 1e-4).all()


def test_preclip(tmp_path, recorded):
    spy = Spy()
    trainer(
        tmp_path / "out", spy, GradlogCallback(tmp_path / "r.zarr", k=24, on_error="raise", stage="preclip")
    ).train()
    run = recorded(tmp_path / "r.zarr")
    np.testing.assert_allclose(np.sqrt(run.norm2.sum(axis=1)), run.scalars["clip_norm"], rtol=1e-5)


def test_resume_from_the_trainers_checkpoint(tmp_path, recorded):
    first, second = Spy(), Spy()
    path = tmp_path / "r.zarr"
    trainer(tmp_path / "out", first, GradlogCallback(path, k=24, on_error="raise"), max_steps=5).train()
    again = trainer(tmp_path / "out", second, GradlogCallback(path, k=24, on_error="raise"))
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    run = recorded(path)
    assert run.steps == list(range(6))
    assert sorted(second.seen) == [3, 4, 5]
    run.expect([(second.seen if t >= 3 else first.seen)[t] for t in run.steps])


def test_every_train_is_a_run_of_its_own_and_a_checkpoint_finds_its_one(tmp_path, recorded):
    path, spies = tmp_path / "r.zarr", [Spy(), Spy(), Spy()]
    callback = GradlogCallback(path, k=24, on_error="raise")
    first = trainer(tmp_path / "out", spies[0], callback, max_steps=5)
    first.train()
    trainer(tmp_path / "other", spies[1], callback, max_steps=2).train()
    again = trainer(tmp_path / "out", spies[2], GradlogCallback(path, k=24, on_error="raise"))
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    run, other = recorded(path), recorded(tmp_path / "r-2.zarr")
    assert run.steps == list(range(6))
    run.expect([(spies[2].seen if t >= 3 else spies[0].seen)[t] for t in run.steps])
    assert other.steps == [0, 1]
    other.expect([spies[1].seen[t] for t in other.steps])


def test_a_search_for_the_batch_size_leaves_the_real_run_whole(tmp_path, recorded):
    """Training begins again after each lack of memory: attempts without a step leave no run of their own."""

    class Lacking(Trainer):
        calls = 0

        def training_step(self, model, inputs, *args, **kwargs):
            self.calls += 1
            if len(inputs["x"]) > 4 and self.calls > 3:
                raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
            return super().training_step(model, inputs, *args, **kwargs)

    spy, path = Spy(), tmp_path / "r.zarr"
    made = trainer(tmp_path, spy, GradlogCallback(path, k=24, on_error="raise"), per_device_train_batch_size=8,
                   auto_find_batch_size=True, gradient_accumulation_steps=1)  # fmt: skip
    made.__class__ = Lacking
    made.train()
    assert sorted(p.name for p in tmp_path.glob("*.zarr")) == ["r-2.zarr", "r.zarr"]
    assert recorded(path).steps == [0, 1, 2]
    assert recorded(path).run.info["reason"] == "training began again"
    run = recorded(tmp_path / "r-2.zarr")
    assert run.steps == list(range(6))
    run.expect([spy.seen[t] for t in run.steps])
