"""A recorder that sees no steps, or no longer, says so: once, in words, and in the store."""

from __future__ import annotations

import multiprocessing
import warnings

import pytest
import torch
import zarr

import gradlog
from gradlog.errors import GradlogWarning
from tests.helpers.torch_loops import loss_of, mlp

pytestmark = pytest.mark.usefixtures("seeded")


def reason(path):
    return zarr.open_group(path, mode="r")["seg-000000-r0000"].attrs["gradlog_segment"]["reason"]


def steps(model, optimizer, n):
    for _ in range(n):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def test_training_by_hand_is_noticed_at_the_end(tmp_path):
    model = mlp()
    log = gradlog.attach(torch.optim.SGD(model.parameters()), tmp_path / "r.zarr", model=model, k=32)
    for _ in range(3):
        loss_of(model).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    text = r"closed with no rows: no call of SGD.step\(\) was seen, though the parameters changed"
    with pytest.warns(GradlogWarning, match=text):
        log.close()
    assert reason(tmp_path / "r.zarr").startswith("closed with no rows: no call of SGD.step() was seen")


def test_another_optimizer_that_takes_over(tmp_path):
    model = mlp()
    warm_up = torch.optim.Adam(model.parameters())
    log = gradlog.attach(warm_up, tmp_path / "r.zarr", model=model, k=32)
    steps(model, warm_up, 3)
    steps(model, torch.optim.SGD(model.parameters(), lr=0.1), 2)
    with pytest.warns(GradlogWarning, match=r"the last 2 steps .* by another optimizer \(SGD\) and are not recorded"):
        log.close()
    assert "another optimizer (SGD)" in reason(tmp_path / "r.zarr")


def test_another_optimizer_is_told_while_training_goes_on(tmp_path):
    model = torch.nn.Linear(20, 1)
    log = gradlog.attach(torch.optim.Adam(model.parameters()), tmp_path / "r.zarr", model=model, k=8)
    with pytest.warns(GradlogWarning, match="the last 100 steps of these parameters") as told:
        steps(model, torch.optim.SGD(model.parameters(), lr=0.1), 150)
    assert len(told) == 1
    with pytest.warns(GradlogWarning, match="closed with no rows"):
        log.close()


def test_an_optimizer_that_is_recorded_itself_is_no_stranger(tmp_path):
    """Nor is one that steps in between, as in meta-learning."""
    model = mlp()
    outer, inner = torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(model.parameters(), lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with gradlog.attach(outer, tmp_path / "outer.zarr", model=model, k=32):
            for _ in range(3):
                steps(model, inner, 2)
                steps(model, outer, 1)
            with gradlog.attach(inner, tmp_path / "inner.zarr", model=model, k=32):
                steps(model, inner, 5)
    assert reason(tmp_path / "outer.zarr") == ""


def test_clipping_without_steps_is_told_while_training_goes_on(tmp_path):
    model = torch.nn.Linear(20, 1)
    log = gradlog.attach(torch.optim.SGD(model.parameters()), tmp_path / "r.zarr", model=model, k=8)
    with pytest.warns(GradlogWarning, match="clipped 100 times and no step was seen"):
        for _ in range(101):
            loss_of(model).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with pytest.warns(GradlogWarning, match="closed with no rows"):
        log.close()


def child(model, optimizer, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        steps(model, optimizer, 3)
    told.put([str(w.message) for w in caught])


@pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning")  # JAX's, where another test has loaded it
def test_a_forked_child_that_trains_is_told_once(tmp_path):
    context = multiprocessing.get_context("fork")
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    log = gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k=32)
    told = context.SimpleQueue()
    process = context.Process(target=child, args=(model, optimizer, told))
    process.start()
    messages = told.get()
    process.join()
    assert len(messages) == 1
    assert "forked after attach takes steps, and they are not recorded" in messages[0]
    with pytest.warns(GradlogWarning, match="in the process that trains"):
        log.close()
    assert "in the process that trains" in reason(tmp_path / "r.zarr")
