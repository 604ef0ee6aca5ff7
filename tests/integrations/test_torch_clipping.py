"""Before clipping or after it, free of the scaler's scale, and each step's own: the stages of a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gradlog
import gradlog.analysis
from gradlog.format.header import NONFINITE, SKIPPED
from tests.helpers.torch_loops import loss_of, mlp, snapshot, train

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("stage", ["consumed", "preclip"])
def test_clipping(tmp_path, recorded, stage, any_path):
    from torch.nn.utils import clip_grad_norm_ as imported_before

    model = mlp()
    before, norms = [], []

    def clip():
        before.append(snapshot(model))
        norms.append(float(imported_before(model.parameters(), 0.01)))

    after = train(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "r.zarr", between=clip, stage=stage)
    run = recorded(tmp_path / "r.zarr")
    run.expect(before if stage == "preclip" else after)
    np.testing.assert_allclose(run.scalars["clip_norm"], norms, rtol=1e-6)
    np.testing.assert_allclose(run.scalars["clip_coef"], 0.01 / (np.array(norms) + 1e-6), rtol=1e-5)


def test_clipping_of_another_model_is_none_of_ours(tmp_path, recorded):
    model, other = mlp(), mlp()

    def clip():
        loss_of(other).backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 0.01)

    train(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "r.zarr", between=clip)
    assert "clip_coef" not in recorded(tmp_path / "r.zarr").scalars


def test_clipping_for_a_step_that_was_never_taken_is_forgotten(tmp_path, recorded):
    """A loop that drops a bad batch after clipping: the next row is of the next batch."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen, norms = [], []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32, stage="preclip"):
        for t in range(4):
            optimizer.zero_grad()
            loss_of(model).backward()
            gradient = snapshot(model)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            if t % 2:
                seen.append(gradient)
                norms.append(float(norm))
                optimizer.step()
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    np.testing.assert_allclose(run.scalars["clip_norm"], norms, rtol=1e-6)


def test_clipping_in_parts_and_in_two_halves(tmp_path, recorded):
    """Each part's coefficient is kept; clip_grads_with_norm_, torch's second half, is noticed as well."""
    model = mlp()
    before, norms = [], []

    def clip():
        before.append(snapshot(model))
        norms.append(float(torch.nn.utils.clip_grad_norm_(model[0].parameters(), 0.01)))
        parameters = list(model[2].parameters())
        norms.append(float(norm := torch.nn.utils.get_total_norm([p.grad for p in parameters])))
        torch.nn.utils.clip_grads_with_norm_(parameters, 0.02, norm)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, tmp_path / "r.zarr", between=clip, stage="preclip")
    run = recorded(tmp_path / "r.zarr")
    run.expect(before)
    np.testing.assert_allclose(run.scalars["clip_norm"], norms[::2], rtol=1e-6)
    np.testing.assert_allclose(run.scalars["clip_norm/1"], norms[1::2], rtol=1e-6)
    assert (run.scalars["clip_coef/1"] < 1).all()


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler(tmp_path, recorded, fused, any_path):
    """Unscaled gradients, and a step that overflows is there, marked as skipped."""
    model, twin = mlp(), mlp()
    twin.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    seen, losses = [], []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for i in range(4):
            optimizer.zero_grad()
            twin.zero_grad()
            x = torch.randn(8, 20)
            twin.load_state_dict(model.state_dict())
            twin(x).square().mean().backward()
            loss = model(x).square().mean()
            losses.append(loss.item())
            scaler.scale(loss).backward()
            if i == 2:
                model[2].bias.grad[0] = float("inf")
                twin[2].bias.grad[0] = float("inf")
            seen.append(snapshot(twin))
            scaler.step(optimizer)
            scaler.update()
    run = recorded(tmp_path / "r.zarr")
    assert [f & SKIPPED for f in run.flags] == [0, 0, SKIPPED, 0]
    assert run.flags[2] & NONFINITE
    seen.pop(2)
    run.steps.pop(2)
    run.sketch, run.norm2 = np.delete(run.sketch, 2, 0), np.delete(run.norm2, 2, 0)
    run.expect(seen, rtol=1e-4)
    np.testing.assert_array_equal(run.scalars["loss_scale"], [2.0**12] * 3 + [2.0**11])
    np.testing.assert_allclose(run.scalars["loss"], losses, rtol=1e-3)  # the twin's adds 1 / loss_scale of it


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler_before_clipping(tmp_path, recorded, fused, unscale):
    """Clipping gradients that are still scaled is a mistake, but what is recorded is free of the scale all the same."""
    model, twin = mlp(), mlp()
    twin.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    x = torch.randn(8, 20)
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32, stage="preclip"):
        scaler.scale(model(x).square().mean()).backward()
        if unscale:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update()
    twin(x).square().mean().backward()
    run = recorded(tmp_path / "r.zarr")
    run.expect([snapshot(twin)], rtol=1e-4)
    assert run.scalars["clip_coef"] < 1


def test_a_disabled_scaler_is_not_there(tmp_path, recorded):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        scaler.scale(loss_of(model)).backward()
        seen = [snapshot(model)]
        scaler.step(optimizer)
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    assert "loss_scale" not in run.scalars
