"""Whatever shape a training loop has, the recorded gradient is the one that the optimizer consumed."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import gradlog
import gradlog.analysis
from gradlog.analysis import open_run
from gradlog.integrations.torch.capture import Capture
from gradlog.integrations.torch.optimizers.loss import Loss, unscaled
from gradlog.recorder.recording import Recording
from tests.helpers.torch_loops import loss_of, mlp, snapshot, train

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    lambda p: torch.optim.Adam(p, lr=1e-2, foreach=False),
    lambda p: torch.optim.RMSprop(p, lr=1e-2),
    lambda p: torch.optim.Adagrad(p),
    lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2), capturable=False, foreach=False),
])  # fmt: skip
def test_optimizers(tmp_path, recorded, make, any_path):
    model = mlp()
    seen = train(model, make(model.parameters()), tmp_path / "r.zarr")
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    assert run.steps == [0, 1, 2, 3]
    assert np.isfinite(run.scalars["loss"]).all()
    assert np.isfinite(run.scalars["lr"]).all()


def test_closure_is_captured_after_its_backward(tmp_path, recorded):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for _ in range(3):

            def closure():
                optimizer.zero_grad()
                loss = loss_of(model)
                loss.backward()
                return loss

            optimizer.step(closure)
            seen.append(snapshot(model))
    recorded(tmp_path / "r.zarr").expect(seen)


def test_lbfgs_records_the_last_evaluation(tmp_path, recorded):
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    x = torch.randn(8, 20)
    evaluations, seen, losses = [], [], []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for _ in range(2):

            def closure():
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                evaluations.append((snapshot(model), loss.item()))
                return loss

            optimizer.step(closure)
            seen.append(evaluations[-1][0])
            losses.append(evaluations[-1][1])
    assert len(evaluations) > 2
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    np.testing.assert_allclose(run.scalars["loss"], losses, rtol=1e-6)


def test_accumulation_gives_one_row_an_update(tmp_path, recorded):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen, losses = [], []
    original = torch.autograd.backward
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32) as log:
        for i in range(12):
            loss = loss_of(model) / 4
            loss.backward()
            losses.append(loss.item())
            if i == 1:  # what is thrown away is no part of the step
                optimizer.zero_grad()
                losses[:] = [0.0, 0.0]
            if i % 4 == 3:
                seen.append(snapshot(model))
                optimizer.step()
                if i >= 7:  # from here on the loop tells it
                    log.annotate(loss=i)
                optimizer.zero_grad(set_to_none=i < 5)
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    np.testing.assert_allclose(run.scalars["loss"], [sum(losses[:4]), 7, 11], rtol=1e-6)
    assert torch.autograd.backward is original


def test_gan_two_runs(tmp_path, recorded):
    generator, critic = nn.Linear(5, 20), mlp()
    og = torch.optim.Adam(generator.parameters(), lr=1e-3)
    oc = torch.optim.Adam(critic.parameters(), lr=2e-3)
    of_g, of_c, losses = [], [], []
    with (
        gradlog.attach(og, tmp_path / "g.zarr", model=generator, on_error="raise", k=16),
        gradlog.attach(oc, tmp_path / "c.zarr", model=critic, on_error="raise", k=16),
    ):
        for i in range(6):
            oc.zero_grad()
            og.zero_grad()
            loss = critic(generator(torch.randn(4, 5))).mean()
            torch.autograd.backward([loss, loss.detach().requires_grad_()])
            losses.append(2 * loss.item())
            of_c.append(snapshot(critic))
            oc.step()
            if i % 2:
                of_g.append(snapshot(generator))
                og.step()
            torch.autograd.backward(generator(torch.randn(1, 5)).mean())  # unused by any step
    runs = recorded(tmp_path / "g.zarr"), recorded(tmp_path / "c.zarr")
    runs[0].expect(of_g)
    runs[1].expect(of_c)
    np.testing.assert_allclose(runs[0].scalars["loss"], losses[1::2], rtol=1e-6)
    np.testing.assert_allclose(runs[1].scalars["loss"], losses, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_parameter_groups_and_schedule(tmp_path, recorded):
    model = mlp()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}], lr=0.1
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    train(model, optimizer, tmp_path / "r.zarr", between=schedule.step)
    run = recorded(tmp_path / "r.zarr")
    np.testing.assert_allclose(run.scalars["lr"], 0.1 * 0.5 ** np.arange(1, 5))
    np.testing.assert_allclose(run.scalars["lr/1"], 0.5 * 0.5 ** np.arange(1, 5))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("compile_step", [False, True])
def test_compiled_model_and_step(tmp_path, recorded, compile_step):
    torch._dynamo.reset()
    plain = mlp()
    model = torch.compile(plain, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = torch.compile(lambda: optimizer.step(), backend="eager") if compile_step else optimizer.step
    seen = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model).backward()
            seen.append(snapshot(plain))
            step()
    recorded(tmp_path / "r.zarr").expect(seen)


def test_checkpointing(tmp_path, recorded):
    from torch.utils.checkpoint import checkpoint

    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen, losses = [], []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for reentrant in (True, False):
            optimizer.zero_grad()
            x = torch.randn(8, 20, requires_grad=True)
            loss = checkpoint(model, x, use_reentrant=reentrant).square().mean()
            loss.backward()
            seen.append(snapshot(model))
            losses.append(loss.item())
            optimizer.step()
        model(x).backward(torch.ones(8, 3))  # which says no loss
        seen.append(snapshot(model))
        optimizer.step()
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    np.testing.assert_allclose(run.scalars["loss"], [*losses, np.nan], rtol=1e-6)
    assert run.run.info["segments"][0].get("loss") is None  # the last row has none


def test_a_loss_is_of_the_step_that_used_it(tmp_path, recorded):
    body, head = nn.Linear(20, 3), nn.Linear(3, 1)
    both = {"body": torch.optim.SGD(body.parameters(), lr=0.1), "head": torch.optim.SGD(head.parameters(), lr=0.1)}
    with gradlog.attach(both, tmp_path / "r.zarr", {"body": body, "head": head}, k=8, on_error="raise") as log:
        for t, name in enumerate(["body", "body", "head", "body"]):
            both[name].zero_grad()
            (0 * head(body(torch.randn(2, 20))).mean() + t).backward()
            other = threading.Thread(target=torch.ones((), requires_grad=True).backward)
            other.start()
            other.join()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", gradlog.GradlogWarning)  # the rows of the head are partial
                both[name].step()
        for p in body.parameters():
            p.grad = torch.ones_like(p)
        for optimizer in both.values():
            optimizer.step()
        assert log.rows == 4
    np.testing.assert_array_equal(recorded(tmp_path / "r.zarr").scalars["loss"], [0, 2, 3, np.nan])


@pytest.mark.parametrize(("owner", "call", "first", "lost"), [
    (Capture, "_row", False, []),  # before the row has its number: it is handed in with the next one
    (Recording, "_write", False, [1]),
    (Recording, "_write", True, []),
])  # fmt: skip
def test_ctrl_c_at_the_end_of_a_step_neither_doubles_nor_shifts_a_row(
    tmp_path, recorded, monkeypatch, owner, call, first, lost
):
    """As in a notebook where training goes on: the row is there, or its step is a known gap, and nothing is said."""
    model, seen, original = mlp(), [], getattr(owner, call)

    def interrupted(*args):
        raise KeyboardInterrupt(original(*args) if first else None)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model, k=8, on_error="raise"):
        for t in range(4):
            loss_of(model).backward()
            seen.append(snapshot(model))
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) if t == 1 else nullcontext():
                patch.setattr(owner, call, interrupted if t == 1 else original)
                optimizer.step()
            optimizer.zero_grad()
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [t for t in range(4) if t not in lost]
    run.expect([seen[t] for t in run.steps])
    assert [tuple(gap) for gap in run.run.segments[0].header.dropped] == [(t, t, "interrupted") for t in lost]


def test_losses_on_several_devices_add_up():
    with FakeTensorMode(), torch.device("cuda:1"):
        first, second, scale = torch.ones(()), torch.ones((), device="cuda:0"), torch.ones((), device="cuda:0")
        held = torch.ones(3)
        held.grad, loss = torch.ones(3), Loss()
        loss.add([first, second], None, [held])
        for other in (second, torch.ones((), device="cpu")):
            loss.add(other, None, [held])
        assert unscaled(loss.used(None), scale)["loss"].device == first.device
        loss.add(first, None, [held])
    loss.add(torch.ones(()), None, [held])  # which does not add to one that pretends
    assert loss.used(None) is None


def test_logged_is_what_the_optimizer_consumed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    log = gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k="exact", on_error="raise")
    seen = []
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        seen.append([p.grad.clone().ravel().numpy() for p in model.parameters()])
        optimizer.step()
        log.annotate(loss=1.0)
    copy.deepcopy(optimizer)
    pickle.dumps(model)
    log.close()
    run = open_run(tmp_path / "r.zarr")
    assert run.header.groups == ("0", "1")
    rows = run.sketch.compute()
    for t, grads in enumerate(seen):
        assert np.array_equal(rows[t, 0], np.concatenate(grads[:2]))
        assert np.array_equal(rows[t, 1, :12], np.concatenate(grads[2:]))
    assert set(run.scalar_columns["lr"]) == {1e-2}
    assert not optimizer._optimizer_step_pre_hooks


def test_a_closure_is_captured_after_its_backward_pass(tmp_path: Path) -> None:
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([w], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    with gradlog.attach(optimizer, tmp_path / "r.zarr", k="exact", on_error="raise"):
        before = 2 * w.detach().clone()
        optimizer.step(closure)
    assert np.array_equal(open_run(tmp_path / "r.zarr").sketch.compute()[0, 0], before.numpy())
