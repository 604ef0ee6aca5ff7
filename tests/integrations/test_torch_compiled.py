"""Steps and clipping inside ``torch.compile``, with and without ``fullgraph``: they run as before, and are recorded."""

from __future__ import annotations

import itertools

import pytest
import torch

import gradlog
from gradlog.integrations.script import ScriptRecorder
from tests.helpers.torch_loops import loss_of, mlp, snapshot
from tests.integrations.test_torch_steps import InPlace

pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),  # torch's own
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Descent(InPlace):
    """Of an optimizer of one's own the compiler can make a single graph; torch's own break it."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=group["lr"])


def loop(path, body, backend, attached=True, **options):
    """Three steps of a compiled ``body(model, optimizer)``; what it was given, and the weights at the end."""
    torch.manual_seed(2)
    torch._dynamo.reset()
    model = mlp()
    optimizer = Descent(model.parameters())
    log = gradlog.attach(optimizer, path, model=model, on_error="raise", k=32, **options) if attached else None
    compiled = torch.compile(lambda: body(model, optimizer), fullgraph=True, backend=backend)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        seen.append(snapshot(model))
        compiled()
    if log is not None:
        log.close()
    return seen, [p.detach().clone() for p in model.parameters()]


def clip_and_step(model, optimizer):
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()


@pytest.mark.parametrize(("stage", "backend"), [
    *itertools.product(["consumed", "preclip"], ["eager", "aot_eager"]),
    pytest.param("consumed", "inductor", marks=pytest.mark.slow),  # seconds of a C++ compiler
])  # fmt: skip
def test_a_single_graph_that_clips_and_steps(tmp_path, recorded, backend, stage):
    _, plain = loop(tmp_path / "none.zarr", clip_and_step, backend, attached=False)
    seen, weights = loop(tmp_path / "r.zarr", clip_and_step, backend, stage=stage)
    assert all(torch.equal(a, b) for a, b in zip(plain, weights, strict=True))
    run = recorded(tmp_path / "r.zarr")
    coef = run.scalars["clip_coef"] if stage == "consumed" else [1] * 3
    assert all(0 < c <= 1 for c in coef)
    run.expect([{n: c * g for n, g in row.items()} for c, row in zip(coef, seen, strict=True)], rtol=1e-4)


def test_updates_of_a_single_graph(tmp_path, recorded):
    seen, _ = loop(tmp_path / "r.zarr", lambda model, optimizer: optimizer.step(), "aot_eager", what="update")
    rows = [{n: -0.1 * g for n, g in row.items()} for row in seen]
    recorded(tmp_path / "r.zarr").expect(rows, rtol=1e-3, norms=False)


def test_compiled_clipping_of_another_model(tmp_path, recorded):
    """A recording of anything in the process stands in the way of no compiled code."""
    model, other = mlp(), mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clip = torch.compile(
        lambda: torch.nn.utils.clip_grad_norm_(other.parameters(), 0.01), fullgraph=True, backend="eager"
    )
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        loss_of(other).backward()
        clip()
        loss_of(model).backward()
        seen = [snapshot(model)]
        optimizer.step()
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    assert "clip_coef" not in run.scalars


def test_a_compiled_step_of_another_optimizer(tmp_path, recorded):
    model, other = mlp(), mlp()
    optimizer, second = torch.optim.SGD(model.parameters(), lr=0.1), Descent(other.parameters())
    step = torch.compile(lambda: second.step(), fullgraph=True, backend="eager")
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        loss_of(other).backward()
        step()
        loss_of(model).backward()
        seen = [snapshot(model)]
        optimizer.step()
    recorded(tmp_path / "r.zarr").expect(seen)


def test_a_script_whose_steps_are_one_graph(tmp_path, recorded):
    """``gradlog run`` learns of the optimizer from its first step, and records from the second one on."""
    model = mlp()
    optimizer = Descent(model.parameters())
    step = torch.compile(lambda: optimizer.step(), fullgraph=True, backend="eager")
    recorder = ScriptRecorder(tmp_path / "r.zarr", k=32)
    seen = []
    try:
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model).backward()
            seen.append(snapshot(model))
            step()
    finally:
        recorder.close()
    recorded(tmp_path / "r.zarr").expect(seen[1:])
