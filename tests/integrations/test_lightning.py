"""The Lightning callback against gradients read in ``on_before_optimizer_step``, and in post-hooks where it clips."""

# ruff: noqa: E402 - imports come after importorskip
from __future__ import annotations

import numpy as np
import pytest
import torch

lightning = pytest.importorskip("lightning.pytorch")
from torch import nn

from gradlog.errors import UnsupportedError
from gradlog.integrations.lightning import GradlogCallback
from gradlog.integrations.script import ScriptRecorder

# Lightning's own: what it uses of torch, and its advice on loaders and callbacks.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, 90)
        self.head = nn.Linear(90, 1)
        self.before, self.after, self.losses = [], [], []

    def snapshot(self):
        return {n: p.grad.numpy().copy() for n, p in self.named_parameters()}

    def training_step(self, batch, i):
        loss = self.head(self.body(batch[0]).tanh()).square().mean()
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        optimizer.register_step_post_hook(lambda *a: self.after.append(self.snapshot()))
        return optimizer

    def on_before_optimizer_step(self, optimizer):
        self.before.append(self.snapshot())


class Gan(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = nn.Linear(12, 12), nn.Linear(12, 1)
        self.seen = {"generator": [], "critic": []}

    def training_step(self, batch, i):
        for name, optimizer in zip(self.seen, self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(self.critic(self.generator(batch[0])).square().mean())
            parameters = getattr(self, name).named_parameters()
            self.seen[name].append({f"{name}.{n}": p.grad.numpy().copy() for n, p in parameters})
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(self.generator.parameters()), torch.optim.SGD(self.critic.parameters(), lr=0.1)]


def fit(folder, model, callbacks, checkpoint=None, **options):
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(64, 12)), batch_size=4)
    defaults = {
        "max_steps": 6,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = lightning.Trainer(default_root_dir=folder, callbacks=callbacks, **{**defaults, **options})
    trainer.fit(model, loader, ckpt_path=checkpoint)


@pytest.mark.parametrize("stage", ["consumed", "preclip"])
def test_clipping_and_accumulation(tmp_path, recorded, stage):
    model = Net()
    callback = GradlogCallback(tmp_path / "r.zarr", k=24, on_error="raise", stage=stage)
    fit(tmp_path, model, [callback], accumulate_grad_batches=2, gradient_clip_val=0.01)
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == list(range(6))
    run.expect(model.before if stage == "preclip" else model.after)
    assert (run.scalars["clip_coef"] < 1).all()
    assert run.header.provenance["notes"] == {"batch_size": 8, "steps_per_epoch": 8}
    np.testing.assert_allclose(run.scalars["loss"], np.reshape(model.losses, (6, 2)).mean(axis=1), rtol=1e-5)


def test_two_optimizers_two_runs(tmp_path, recorded):
    model = Gan()
    fit(tmp_path, model, [GradlogCallback(tmp_path / "r.zarr", k=8, on_error="raise")])
    recorded(tmp_path / "r.zarr").expect(model.seen["generator"])
    recorded(tmp_path / "r.optimizer2.zarr").expect(model.seen["critic"])


class Pair(Gan):
    """Both optimizers use gradients of one backward pass."""

    def training_step(self, batch, i):
        first, second = self.optimizers()
        first.zero_grad(), second.zero_grad()
        loss = self.critic(self.generator(batch[0])).square().mean()
        self.manual_backward(loss)
        for name in self.seen:
            parameters = getattr(self, name).named_parameters()
            self.seen[name].append({f"{name}.{n}": p.grad.numpy().copy() for n, p in parameters})
        first.step(), second.step()
        return loss


@pytest.mark.parametrize(("kind", "stores"), [(Pair, ["r.zarr"]), (Gan, ["r.optimizer2.zarr", "r.zarr"])])
def test_a_script_with_a_manual_loop_is_told_apart_by_its_steps(tmp_path, recorded, nobody_else_trains, kind, stores):
    """Recorded by ``gradlog run``, which knows nothing of the trainer."""
    recorder, model = ScriptRecorder(tmp_path / "r.zarr", k=8, on_error="raise"), kind()
    fit(tmp_path, model, [])
    recorder.close()
    assert sorted(path.name for path in tmp_path.glob("*.zarr")) == stores
    rows = [g | c for g, c in zip(*model.seen.values(), strict=True)] if kind is Pair else model.seen["generator"]
    recorded(tmp_path / "r.zarr").expect(rows)


@pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`",
    "ignore:You.re resuming from a checkpoint that",
    "ignore:Using ModelCheckpoint with manual optimization",
)
@pytest.mark.parametrize("choice", ["auto", "together", "separate"])
def test_optimizers_that_step_together_make_one_run(tmp_path, recorded, choice):
    first, second = Pair(), Pair()
    saver = lightning.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")

    def callback():
        return GradlogCallback(tmp_path / "r.zarr", choice, k=8, on_error="raise")

    fit(tmp_path, first, [callback(), saver], enable_checkpointing=True)  # max_steps counts both: three batches
    fit(tmp_path, second, [callback()], str(tmp_path / "step=4.ckpt"), max_steps=8)
    seen = {name: first.seen[name][:2] + second.seen[name] for name in first.seen}
    if choice == "separate":
        recorded(tmp_path / "r.optimizer2.zarr").expect(seen["critic"])
        recorded(tmp_path / "r.zarr").expect(seen["generator"])
        return
    run = recorded(tmp_path / "r.zarr")
    run.expect([a | b for a, b in zip(*seen.values(), strict=True)])
    assert {"lr/Adam", "lr/SGD"} <= set(run.scalars)
    assert np.isfinite(run.scalars["loss"]).all()
    assert not (tmp_path / "r.optimizer2.zarr").exists()


def test_a_url_stays_one(tmp_path, monkeypatch, recorded):
    monkeypatch.chdir(tmp_path)
    model = Gan()
    fit(tmp_path, model, [GradlogCallback("memory://lightning/r.zarr", k=8, on_error="raise")])
    recorded("memory://lightning/r.zarr").expect(model.seen["generator"])
    recorded("memory://lightning/r.optimizer2.zarr").expect(model.seen["critic"])
    assert not (tmp_path / "memory:").exists()


@pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`", "ignore:You.re resuming from a checkpoint that"
)
def test_resume_from_a_lightning_checkpoint(tmp_path, recorded):
    first, second = Net(), Net()
    path = tmp_path / "r.zarr"
    saver = lightning.callbacks.ModelCheckpoint(
        tmp_path / "saved", every_n_train_steps=3, save_top_k=-1, filename="{step}"
    )
    callbacks = [GradlogCallback(path, k=24, on_error="raise"), saver]
    fit(tmp_path, first, callbacks, max_steps=5, enable_checkpointing=True)
    checkpoint = tmp_path / "saved" / "step=3.ckpt"
    fit(tmp_path, second, [GradlogCallback(path, k=24, on_error="raise")], str(checkpoint), max_steps=7)
    run = recorded(path)
    assert run.steps == list(range(7))
    run.expect(first.after[:3] + second.after)


def test_clipping_by_value_is_no_preclip(tmp_path):
    callback = GradlogCallback(tmp_path / "r.zarr", stage="preclip")
    with pytest.raises(UnsupportedError, match="by value"):
        fit(tmp_path, Net(), [callback], gradient_clip_val=0.01, gradient_clip_algorithm="value")


def test_clipping_by_value_is_consumed(tmp_path, recorded):
    model = Net()
    options = {"gradient_clip_val": 0.001, "gradient_clip_algorithm": "value"}
    fit(tmp_path, model, [GradlogCallback(tmp_path / "r.zarr", k=24, on_error="raise")], **options)
    recorded(tmp_path / "r.zarr").expect(model.after)
    assert max(np.abs(g).max() for g in model.after[0].values()) <= 0.001 < np.abs(model.before[0]["head.bias"]).max()


class Lbfgs(Net):
    def configure_optimizers(self):
        optimizer = torch.optim.LBFGS(self.parameters(), max_iter=3)
        optimizer.register_step_post_hook(lambda *a: self.after.append(self.snapshot()))
        return optimizer


def test_lbfgs(tmp_path, recorded):
    model = Lbfgs()
    fit(tmp_path, model, [GradlogCallback(tmp_path / "r.zarr", k=24, on_error="raise")], max_steps=3)
    run = recorded(tmp_path / "r.zarr")
    run.expect(model.after)
    assert len(model.losses) > 3


def test_every_fit_is_a_run_of_its_own(tmp_path, recorded):
    """A trial run first, then two fits with one callback and one trainer: nothing is lost, nothing is overwritten."""
    models = [Net(), Net()]
    fit(tmp_path, models[0], [GradlogCallback(tmp_path / "r.zarr", k=24, on_error="raise")], fast_dev_run=True)
    callback = GradlogCallback(tmp_path / "r.zarr", k=24, on_error="raise")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(16, 12)), batch_size=4)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, callbacks=[callback], **quiet)
    trainer.fit(models[1], loader)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(models[1], loader)
    runs = [recorded(tmp_path / name) for name in ("r.zarr", "r-2.zarr", "r-3.zarr")]
    assert [run.steps for run in runs] == [[0], [0, 1, 2, 3], [4, 5, 6, 7]]
    runs[1].expect(models[1].after[:4])
    runs[2].expect(models[1].after[4:])
    np.testing.assert_allclose(runs[2].scalars["loss"], models[1].losses[4:], rtol=1e-5)


@pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`",
    "ignore:You.re resuming from a checkpoint that",
    "ignore:Using ModelCheckpoint with manual optimization",
)
def test_a_checkpoint_finds_its_run_among_the_numbered_ones(tmp_path, recorded):
    saver = lightning.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    path, first, second = tmp_path / "r.zarr", Gan(), Gan()
    options = {"max_steps": 4, "enable_checkpointing": True}  # of both optimizers together: two batches
    for model, callbacks in ((first, [saver]), (Gan(), [])):  # two runs; the checkpoint is of the first
        fit(tmp_path, model, [GradlogCallback(path, k=8, on_error="raise"), *callbacks], **options)
    fit(tmp_path, second, [GradlogCallback(path, k=8, on_error="raise")], str(tmp_path / "step=2.ckpt"), max_steps=8)
    for suffix, name in (("", "generator"), (".optimizer2", "critic")):
        assert recorded(tmp_path / f"r-2{suffix}.zarr").steps == [0, 1]
        run = recorded(tmp_path / f"r{suffix}.zarr")
        assert run.steps == [0, 1, 2, 3]
        run.expect(first.seen[name][:1] + second.seen[name])


def test_an_exception_is_kept_with_the_run(tmp_path, recorded):
    class Fails(Net):
        def on_train_batch_start(self, batch, i):
            if i == 3:
                raise ValueError("no more data")

    with pytest.raises(ValueError, match="no more data"):
        fit(tmp_path, Fails(), [GradlogCallback(tmp_path / "r.zarr", k=24, on_error="raise")])
    info = recorded(tmp_path / "r.zarr").run.info
    assert (info["status"], info["reason"], info["steps"]) == (
        "failed",
        "training ended by ValueError: no more data",
        3,
    )


def test_the_loss_of_a_last_step_with_fewer_batches_is_their_mean(tmp_path, recorded):
    model = Net()
    fit(
        tmp_path,
        model,
        [GradlogCallback(tmp_path / "r.zarr", k=24)],
        accumulate_grad_batches=3,
        max_steps=-1,
        max_epochs=1,
    )
    means = [np.mean(model.losses[i : i + 3]) for i in range(0, 16, 3)]
    np.testing.assert_allclose(recorded(tmp_path / "r.zarr").scalars["loss"], means, rtol=1e-5)
