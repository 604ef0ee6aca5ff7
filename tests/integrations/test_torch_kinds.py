"""Kinds of training loops, recorded and not: the same weights to the bit, and rows that zarr alone can check."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zarr
from torch import nn

import gradlog
from tests.helpers.torch_loops import mlp


def norm(params):
    return float(torch.sqrt(sum(p.grad.double().square().sum() for p in params if p.grad is not None)))


def actor_critics(attach, seen):
    """SAC: one optimizer over two critics, another one for the actor."""
    critics, actor = nn.ModuleDict({"q1": mlp(), "q2": mlp()}), nn.Linear(20, 20)
    of_critics, of_actor = torch.optim.Adam(critics.parameters()), torch.optim.Adam(actor.parameters())
    log, _ = attach(of_critics, critics), attach(of_actor, actor)
    for _ in range(4):
        x = torch.randn(8, 20)
        of_critics.zero_grad()
        loss = sum(q(x).square().mean() for q in critics.values())
        loss.backward()
        seen.append((norm(critics.parameters()), loss.item()))
        of_critics.step()
        if log:
            log.annotate(loss=loss.item())
        of_actor.zero_grad()
        critics["q1"](actor(x)).mean().backward()
        of_actor.step()
    return [*critics.parameters(), *actor.parameters()]


def quasi_newton(attach, seen):
    """L-BFGS: several evaluations per step, of which the last one counts."""
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3, line_search_fn="strong_wolfe")
    log, x, last = attach(optimizer, model), torch.randn(8, 20), []

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        last[:] = [(norm(model.parameters()), loss.item())]
        return loss

    for _ in range(4):
        optimizer.step(closure)
        seen.append(last[0])
        if log:
            log.annotate(loss=last[0][1])
    return list(model.parameters())


def accumulation(attach, seen):
    """Three micro-batches per step, the loss noted before it."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    log = attach(optimizer, model)
    for _ in range(4):
        optimizer.zero_grad()
        losses = []
        for _ in range(3):
            loss = model(torch.randn(4, 20)).square().mean() / 3
            loss.backward()
            losses.append(loss.item())
        if log:
            log.annotate(loss=sum(losses))
        seen.append((norm(model.parameters()), sum(losses)))
        optimizer.step()
    return list(model.parameters())


@pytest.mark.parametrize("kind", [actor_critics, quasi_newton, accumulation])
def test_rows_are_right_and_weights_are_the_same_to_the_bit(tmp_path, kind):
    torch.manual_seed(3)
    seen, logs = [], []
    plain = [p.detach().clone() for p in kind(lambda optimizer, model: None, [])]
    torch.manual_seed(3)

    def attach(optimizer, model):
        logs.append(gradlog.attach(optimizer, tmp_path / f"{len(logs)}.zarr", model=model, k=16, on_error="raise"))
        return logs[-1]

    recorded = kind(attach, seen)
    for log in logs:
        log.close()
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))
    segment = zarr.open_group(tmp_path / "0.zarr", mode="r")["seg-000000-r0000"]
    names = segment.attrs["gradlog_segment"]["scalars"]
    assert segment["step"][:].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(np.sqrt(segment["group_norm2"][:].sum(axis=1)), [n for n, _ in seen], rtol=1e-5)
    np.testing.assert_allclose(segment["scalars"][:, names.index("loss")], [loss for _, loss in seen], rtol=1e-6)
