"""Gradients and updates of a torch optimizer in one run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gradlog
from gradlog.analysis import gradient_and_update, open_run
from tests.helpers.torch_loops import loss_of, mlp

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("options", [{"every": 2}, {"groups": "all", "stage": "preclip"}])
def test_gradient_and_update_in_one_run_are_those_of_two(tmp_path, recorded, any_path, options):
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    whats = ("gradient", "update", ("update", "gradient"))
    paths = [tmp_path / f"{i}.zarr" for i in range(3)]
    logs = [
        gradlog.attach(optimizer, path, model=model, on_error="raise", k=32, what=what, **options)
        for path, what in zip(paths, whats, strict=True)
    ]
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    for log in logs:
        log.close()
    gradient, update, both = map(recorded, paths)
    assert both.steps == gradient.steps == update.steps
    np.testing.assert_array_equal(both.sketch, gradient.sketch)
    np.testing.assert_array_equal(both.norm2, gradient.norm2)
    np.testing.assert_array_equal(both.run.updates.read(0, len(both.steps)), update.run.rows.read(0, len(both.steps)))


def test_the_curvature_of_full_batches_is_that_of_hessian_vector_products(tmp_path):
    """By group, too; and the size of the updates relative to the weights, from the snapshot at the start."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    x = torch.randn(32, 6, dtype=torch.float64)
    params = list(model.parameters())

    def loss(*at):
        named = dict(zip(dict(model.named_parameters()), at, strict=True))
        return torch.func.functional_call(model, named, x).sub(x[:, :1] * x[:, 1:2]).square().mean()

    optimizer = torch.optim.SGD(params, lr=0.05, momentum=0.5)
    places = [[p.detach().clone() for p in params]]
    options = {"model": model, "what": ("gradient", "update"), "on_error": "raise"}
    measured = gradlog.attach(optimizer, tmp_path / "n.zarr", k=8, norms_every=4, **options)
    with measured, gradlog.attach(optimizer, tmp_path / "r.zarr", k="exact", **options):
        for _ in range(8):
            optimizer.zero_grad()
            loss(*params).backward()
            optimizer.step()
            places.append([p.detach().clone() for p in params])
    found = gradient_and_update(open_run(tmp_path / "r.zarr"), rows=1)
    logged = gradient_and_update(open_run(tmp_path / "n.zarr"), rows=4).relative
    for t in range(7):
        u = [b - a for a, b in zip(places[t], places[t + 1], strict=True)]
        along = [torch.zeros_like(p) for p in params]
        for at, weight in ((0.0, 1 / 6), (0.5, 4 / 6), (1.0, 1 / 6)):  # Simpson's rule over the step
            here = tuple(a + at * d for a, d in zip(places[t], u, strict=True))
            Hu = torch.autograd.functional.hvp(loss, here, tuple(u))[1]
            along = [a + weight * b for a, b in zip(along, Hu, strict=True)]
        for scope, part in enumerate((slice(None), slice(2), slice(2, 4))):
            products = [float((a * b).sum()) for a, b in zip(along[part], u[part], strict=True)]
            expected = sum(products) / sum(float((b * b).sum()) for b in u[part])
            assert found.curvature.value[t, scope] == pytest.approx(expected, rel=2e-3, abs=2e-4)
            weights = sum(float((p * p).sum()) for p in places[t][part])
            size = sum(float((b * b).sum()) for b in u[part])
            assert found.relative.value[t, scope] == pytest.approx((size / weights) ** 0.5, rel=1e-4)
            if t % 4 == 0:  # where a sketch of 8 coordinates would be far off
                ends = [x[t // 4, scope] for x in (logged.value, logged.low, logged.high)]
                assert ends == pytest.approx([(size / weights) ** 0.5] * 3, rel=1e-4)
