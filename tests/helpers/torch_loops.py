"""A small model, its loss, and a plain training loop that keeps what the optimizer was handed."""

from __future__ import annotations

import torch
from torch import nn

import gradlog
import gradlog.analysis


def mlp(**kwargs):
    return nn.Sequential(nn.Linear(20, 300, **kwargs), nn.Tanh(), nn.Linear(300, 3, **kwargs))


def snapshot(model):
    return {n: p.grad.detach().clone().to_dense().float().numpy() for n, p in model.named_parameters()}


def loss_of(model, dtype=torch.float32):
    return model(torch.randn(8, 20, dtype=dtype)).square().mean()


def step_in_backward(model, optimizer_of):
    """One optimizer per parameter, which steps as soon as the gradient is there and lets go of it.

    Returns the optimizers, and the gradients that they found last, by name.
    """
    found = {}
    names = {p: name for name, p in model.named_parameters()}
    optimizers = {p: optimizer_of([p]) for p in names}

    def step(p):
        found[names[p]] = p.grad.detach().clone().numpy()
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in names:
        p.register_post_accumulate_grad_hook(step)
    return list(optimizers.values()), found


def train(model, optimizer, path, steps=4, between=None, **options):
    """Plain loop; returns what p.grad held when step() was called."""
    seen = []
    with gradlog.attach(optimizer, path, model=model, on_error="raise", k=32, **options) as log:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            if between:
                between()
            seen.append(snapshot(model))
            optimizer.step()
            log.annotate(loss=loss.item())
    return seen
