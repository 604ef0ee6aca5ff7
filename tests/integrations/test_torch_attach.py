"""What attach() takes, refuses and resumes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import gradlog
import gradlog.analysis
from gradlog.analysis.common.recorded import recorded as in_words
from gradlog.errors import GradlogWarning, UnsupportedError
from gradlog.integrations import torch as integration
from gradlog.integrations.torch.optimizers.steps import stepping
from tests.helpers.torch_loops import loss_of, mlp, snapshot

pytestmark = pytest.mark.usefixtures("seeded")


def test_disabled(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADLOG_DISABLED", "1")
    optimizer = torch.optim.SGD(mlp().parameters(), lr=0.1)
    log = gradlog.attach(optimizer, tmp_path / "r.zarr")
    assert not log.active
    assert not optimizer._optimizer_step_pre_hooks
    assert not (tmp_path / "r.zarr").exists()


def test_resume_with_the_optimizers_checkpoint(tmp_path, recorded):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []

    def steps(n):
        for _ in range(n):
            optimizer.zero_grad()
            loss_of(model).backward()
            seen.append(snapshot(model))
            optimizer.step()

    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32) as log:
        steps(3)
        torch.save({"log": log.state_dict(), "model": model.state_dict()}, tmp_path / "c.pt")
        steps(2)
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32, mode="a") as log:
        log.load_state_dict(torch.load(tmp_path / "c.pt")["log"])
        steps(2)
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [0, 1, 2, 3, 4]
    run.expect(seen[:3] + seen[5:])


def test_parameters_and_their_norms_on_the_way(tmp_path, recorded):
    model, before = mlp(), []
    optimizer = torch.optim.Adam(model.parameters())
    with gradlog.attach(
        optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32, every=2, theta_every=3, norms_every=4
    ) as log:
        for _ in range(8):
            before.append({n: p.detach().clone().numpy() for n, p in model.named_parameters()})
            loss_of(model).backward()
            optimizer.step()
    assert not log.reason
    run = recorded(tmp_path / "r.zarr").run
    for layer in run.groups:
        of = [name for name in before[0] if name.startswith(layer)]
        for kind, rows in (("weight", before), ("update", [{n: b[n] - a[n] for n in a} for a, b in pairwise(before)])):
            norms = [np.sqrt(sum((rows[t][n] ** 2).sum() for n in of)) if t % 4 == 0 else np.nan for t in (0, 2, 4, 6)]
            np.testing.assert_allclose(run.scalar_columns[f"{kind}_norm/{layer}"], norms, rtol=1e-5)
    assert run.info["snapshots"] == [0, 3, 6, 8]
    scalars = in_words(run.info)["scalars"].split(", ")
    norms = "norms of the parameters and of their change"
    assert set(scalars) == {"wall_time", "lr", "loss (what backward was called on)", norms}
    kept = {int(t): theta for s in run.segments for t, theta in zip(s.snapshot_steps, s.snapshots, strict=True)}
    for t in (0, 3, 6):
        np.testing.assert_allclose(kept[t], run.sketcher().sketch(before[t]).sketch, rtol=1e-5, atol=1e-6)


def test_what_needs_parameters_that_nobody_knows_is_said(tmp_path):
    log = gradlog.open(tmp_path / "r.zarr", k=4, theta_every=2, norms_every=2)
    log.step({"w": np.ones(9)})
    with (
        pytest.warns(GradlogWarning, match="no sketch of the parameters was kept"),
        pytest.warns(GradlogWarning, match="no norms of the parameters were recorded"),
    ):
        log.close()


class DeepSpeedLike(torch.optim.SGD):
    __module__ = "deepspeed.runtime.zero.stage_1_and_2"


class NoHooks:
    param_groups = ()


class Wrapper:
    def __init__(self, optimizer):
        self.optimizer = optimizer


class DeepSpeedZero:
    """Holds a torch optimizer over partitions of its own, as ZeRO does."""

    __module__ = "deepspeed.runtime.zero.stage_1_and_2"

    def __init__(self, optimizer):
        self.optimizer = optimizer


def test_what_cannot_be_recorded_is_refused(tmp_path):
    model = mlp()
    with pytest.raises(UnsupportedError, match=r"p\.grad empty"):
        gradlog.attach(Wrapper(DeepSpeedZero(torch.optim.SGD(model.parameters(), lr=0.1))), tmp_path / "r.zarr")
    with pytest.raises(UnsupportedError, match=r"p\.grad empty"):
        gradlog.attach(DeepSpeedLike(model.parameters(), lr=0.1), tmp_path / "r.zarr")
    with pytest.raises(UnsupportedError, match="no step hooks"):
        gradlog.attach(NoHooks(), tmp_path / "r.zarr")
    with pytest.raises(TypeError, match=r"expected model to be a torch\.nn\.Module, or a dict of them, got generator"):
        gradlog.attach(torch.optim.SGD(model.parameters()), tmp_path / "r.zarr", model=model.named_parameters())
    with pytest.raises(ValueError, match="what must be"):
        gradlog.attach(torch.optim.SGD(model.parameters()), tmp_path / "r.zarr", what="momentum")
    for layer, why in ((torch.nn.LazyLinear(2), "lazy modules"), (torch.nn.Linear(3, 2, device="meta"), "meta device")):
        with pytest.raises(UnsupportedError, match=why):
            gradlog.attach(torch.optim.SGD(layer.parameters()), tmp_path / "r.zarr", model=layer)
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(UnsupportedError, match="no parameter that requires"):
        gradlog.attach(torch.optim.SGD(model.parameters()), tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_wrappers_are_looked_into():
    optimizer = torch.optim.SGD(mlp().parameters())
    assert stepping(Wrapper(Wrapper(optimizer))) == [optimizer]


def test_names_without_a_model():
    optimizer = torch.optim.SGD(mlp().parameters())
    assert [n for n, _ in integration.named_parameters(optimizer, {})] == [f"group0.{i}" for i in range(4)]
