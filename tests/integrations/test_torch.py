"""Whatever a training loop does, the recorded gradient is the one that the optimizer consumed."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import gradlog
import gradlog.analysis
from gradlog.errors import GradlogWarning, UnsupportedError
from gradlog.integrations import torch as integration
from gradlog.integrations import torch_measure
from gradlog.schema import NONFINITE, PARTIAL, SKIPPED
from gradlog.sketch import FoldHash


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=[False, True], ids=["cpu path", "device path"])
def any_path(request, monkeypatch):
    monkeypatch.setattr(torch_measure, "_FORCE_DEVICE", request.param)


def mlp(**kwargs):
    return nn.Sequential(nn.Linear(20, 300, **kwargs), nn.Tanh(), nn.Linear(300, 3, **kwargs))


def snapshot(model):
    return {n: p.grad.detach().clone().to_dense().float().numpy() for n, p in model.named_parameters()}


def loss_of(model, dtype=torch.float32):
    return model(torch.randn(8, 20, dtype=dtype)).square().mean()


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
    evaluations, seen = [], []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for _ in range(2):

            def closure():
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                evaluations.append(snapshot(model))
                return loss

            optimizer.step(closure)
            seen.append(evaluations[-1])
    assert len(evaluations) > 2
    recorded(tmp_path / "r.zarr").expect(seen)


def test_accumulation_gives_one_row_an_update(tmp_path, recorded):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for i in range(8):
            loss_of(model).backward()
            if i % 4 == 3:
                seen.append(snapshot(model))
                optimizer.step()
                optimizer.zero_grad(set_to_none=i < 5)
    recorded(tmp_path / "r.zarr").expect(seen)


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


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler(tmp_path, recorded, fused, any_path):
    """Unscaled gradients, and a step that overflows is there, marked as skipped."""
    model, twin = mlp(), mlp()
    twin.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    seen = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for i in range(4):
            optimizer.zero_grad()
            twin.zero_grad()
            x = torch.randn(8, 20)
            twin.load_state_dict(model.state_dict())
            twin(x).square().mean().backward()
            scaler.scale(model(x).square().mean()).backward()
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


def test_gan_two_runs(tmp_path, recorded):
    generator, critic = nn.Linear(5, 20), mlp()
    og = torch.optim.Adam(generator.parameters(), lr=1e-3)
    oc = torch.optim.Adam(critic.parameters(), lr=2e-3)
    of_g, of_c = [], []
    with (
        gradlog.attach(og, tmp_path / "g.zarr", model=generator, on_error="raise", k=16),
        gradlog.attach(oc, tmp_path / "c.zarr", model=critic, on_error="raise", k=16),
    ):
        for i in range(6):
            oc.zero_grad()
            og.zero_grad()
            critic(generator(torch.randn(4, 5))).mean().backward()
            of_c.append(snapshot(critic))
            oc.step()
            if i % 2:
                of_g.append(snapshot(generator))
                og.step()
    recorded(tmp_path / "g.zarr").expect(of_g)
    recorded(tmp_path / "c.zarr").expect(of_c)


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_precisions(tmp_path, recorded, dtype, any_path):
    model = mlp(dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(model, dtype).backward()
            seen.append(snapshot(model))
            optimizer.step()
    recorded(tmp_path / "r.zarr").expect(seen)


class Odd(nn.Module):
    """Tied, frozen, complex, sparse, unused and channels-last parameters in one model."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 6, sparse=True)
        self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
        self.wave = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))
        self.head = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.head.weight
        self.unused = nn.Parameter(torch.randn(7))
        self.frozen = nn.Parameter(torch.randn(9), requires_grad=False)

    def forward(self, i, x):
        a = self.tied(self.head(self.embedding(i))).square().mean()
        b = self.conv(x.to(memory_format=torch.channels_last)).square().mean()
        c = (self.wave @ torch.ones(3, dtype=torch.complex64)).abs().square().mean()
        return a + b + c + self.frozen.sum()


def test_odd_parameters(tmp_path, recorded, any_path):
    model = Odd()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randint(50, (5,)), torch.randn(2, 2, 8, 8)).backward()
            assert model.embedding.weight.grad.is_sparse
            grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
            grads["unused"] = torch.zeros(7)
            seen.append({n: g.clone().to_dense().resolve_conj().numpy().copy(order="C") for n, g in grads.items()})
            optimizer.step()
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    assert "frozen" not in {t.name for t in run.header.tensors}
    assert "tied.weight" not in {t.name for t in run.header.tensors}
    assert all(f & PARTIAL for f in run.flags)


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
    seen = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for reentrant in (True, False):
            optimizer.zero_grad()
            x = torch.randn(8, 20, requires_grad=True)
            checkpoint(model, x, use_reentrant=reentrant).square().mean().backward()
            seen.append(snapshot(model))
            optimizer.step()
    recorded(tmp_path / "r.zarr").expect(seen)


def test_update_rows_telescope(tmp_path, recorded, any_path):
    """The rows of what="update" add up to the sketch of the difference of two checkpoints."""
    from gradlog.sketch import FoldHash

    model = mlp()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    changes = []
    last = before
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    with gradlog.attach(optimizer, tmp_path / "u.zarr", model=model, on_error="raise", k=32, what="update"):
        for _ in range(5):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            now = {n: p.detach().clone() for n, p in model.named_parameters()}
            changes.append({n: (now[n].double() - last[n].double()).numpy() for n in now})
            last = now
    run = recorded(tmp_path / "u.zarr")
    assert run.header.what == "update"
    run.expect(changes, norms=False)
    S = FoldHash(32)
    total = np.zeros(run.sketch.shape[1:])
    for t in run.header.tensors:
        total[t.group] += S.sketch((last[t.name].double() - before[t.name].double()).numpy().ravel(), t.name)
    np.testing.assert_allclose(run.sketch.sum(axis=0, dtype=np.float64), total, rtol=1e-4, atol=1e-6)


def test_update_exact_and_every(tmp_path, recorded):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rows = []
    with gradlog.attach(
        optimizer, tmp_path / "u.zarr", model=model, k="exact", what="update", every=2, on_error="raise"
    ):
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            before = torch.cat([p.detach().flatten().double() for p in model.parameters()])
            optimizer.step()
            rows.append((torch.cat([p.detach().flatten().double() for p in model.parameters()]) - before).numpy())
    run = recorded(tmp_path / "u.zarr")
    assert run.steps == [0, 2, 4]
    np.testing.assert_allclose(
        run.sketch.reshape(3, -1)[:, :8].sum(1), np.stack(rows)[::2].sum(1), rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("what", ["gradient", "update"])
def test_parameters_that_are_unfrozen_or_added_join_the_run(tmp_path, recorded, what):
    """In a new segment, with a warning; a resume knows them again, whatever their place in the model."""
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 30), nn.Linear(30, 3))
    model[1].requires_grad_(False)
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[2].parameters()], lr=0.1)
    start = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}

    def step():
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    options = {"model": model, "on_error": "raise", "k": 32, "groups": "all", "what": what}
    with gradlog.attach(optimizer, tmp_path / "r.zarr", **options):
        step()
        step()
        model[1].requires_grad_(True)
        optimizer.add_param_group({"params": list(model[1].parameters())})
        with pytest.warns(GradlogWarning, match=r"2 parameters joined \(1.weight, 1.bias\)"):
            step()
        step()
    with gradlog.attach(optimizer, tmp_path / "r.zarr", mode="a", **options):
        step()
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [0, 1, 2, 3, 4]
    assert run.run.joined == [{"step": 2, "names": ["1.weight", "1.bias"]}]
    S = FoldHash(32, 0)
    last = sum(S.sketch(p.grad.numpy().reshape(-1), n) for n, p in model.named_parameters())
    moved = sum(S.sketch((p.detach().numpy() - start[n]).reshape(-1), n) for n, p in model.named_parameters())
    expected, found = (last, run.sketch[-1, 0]) if what == "gradient" else (moved, run.sketch[:, 0].sum(0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("any_path")
def test_parameters_are_sketched_at_the_start_at_checkpoints_and_at_the_end(tmp_path, recorded):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32, groups="all") as log:
        for t in range(4):
            if t in (0, 3):
                kept.append({n: p.detach().numpy().copy() for n, p in model.named_parameters()})
            if t == 3:
                log.state_dict()
            loss_of(model).backward()
            optimizer.step()
    kept.append({n: p.detach().numpy() for n, p in model.named_parameters()})
    segment = recorded(tmp_path / "r.zarr").run.segments[0]
    assert segment.snapshot_steps.tolist() == [0, 3, 4]
    S = FoldHash(32, 0)
    expected = [sum(S.sketch(x.reshape(-1), n) for n, x in params.items()) for params in kept]
    np.testing.assert_allclose(segment.snapshots[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_no_trace_is_left(tmp_path):
    from torch.nn.utils import clip_grad

    clip, step = clip_grad._clip_grads_with_norm_, torch.amp.GradScaler.step
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clean = (set(vars(model)), set(vars(optimizer)))
    log = gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k=32)
    assert clip_grad._clip_grads_with_norm_ is not clip
    loss_of(model).backward()
    pairs = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    torch.save({"model": model, "optimizer": optimizer}, tmp_path / "model.pt")
    pairs.append(tuple(torch.load(tmp_path / "model.pt", weights_only=False).values()))
    for twin_model, twin in pairs:
        loss_of(twin_model).backward()
        twin.step()  # not recorded: the next rows are the original's
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step()
    assert log.state_dict()["step"] == 1
    log.close()
    assert (set(vars(model)), set(vars(optimizer))) == clean
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert clip_grad._clip_grads_with_norm_ is clip
    assert torch.amp.GradScaler.step is step


def test_nothing_is_kept_alive(tmp_path):
    """An optimizer that is dropped without close() goes, with model and gradients."""
    model, step = mlp(), torch.amp.GradScaler.step
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    log = gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k=32)
    loss_of(model).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    gone = weakref.ref(model), weakref.ref(optimizer)
    del model, optimizer
    gc.collect()
    assert [g() for g in gone] == [None, None]
    log.close()
    assert torch.amp.GradScaler.step is step


def test_somebody_else_wraps_the_wrappers(tmp_path, monkeypatch):
    """Their wrapper stays where it is, ours only calls through, and attaching again neither recurses nor goes deaf."""
    from torch.nn.utils import clip_grad

    original = clip_grad._clip_grads_with_norm_
    calls = []

    def clipped(path):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        log = gradlog.attach(optimizer, path, model=model, k=32, on_error="raise")
        if not calls:
            inner = clip_grad._clip_grads_with_norm_
            monkeypatch.setattr(clip_grad, "_clip_grads_with_norm_", lambda *a, **k: calls.append(1) or inner(*a, **k))
        loss_of(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        log.close()
        return gradlog.analysis.open_run(path).scalar_columns["clip_coef"]

    for i in range(3):
        assert clipped(str(tmp_path / f"{i}.zarr")) < 1
    assert len(calls) == 3
    monkeypatch.undo()
    assert clipped(str(tmp_path / "last.zarr")) < 1
    assert clip_grad._clip_grads_with_norm_ is original


def test_threads(tmp_path, recorded):
    """Each thread with its own model, attaching, clipping and closing while the others do."""
    failures = []

    def work(name):
        try:
            generator = torch.Generator().manual_seed(hash(name) % 1000)
            for i in range(4):
                model = mlp()
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                path, seen = tmp_path / f"{name}{i}.zarr", []
                with gradlog.attach(optimizer, path, model=model, k=16, on_error="raise", stage="preclip"):
                    for _ in range(3):
                        optimizer.zero_grad()
                        model(torch.randn(8, 20, generator=generator)).square().mean().backward()
                        seen.append(snapshot(model))
                        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
                        optimizer.step()
                recorded(path).expect(seen)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []


class Batches(torch.utils.data.Dataset):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def __len__(self):
        return 4

    def __getitem__(self, i):
        """Steps the forked copy of the optimizer: that is not ours to record."""
        loss_of(self.model).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.01)
        self.optimizer.step()
        return torch.randn(8, 20)


@pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning")  # JAX's, where another test has loaded it
def test_forked_workers(tmp_path, recorded):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k=32, on_error="raise", stage="preclip"):
        workers = torch.multiprocessing.get_context("fork")
        data = Batches(model, optimizer)
        for x in torch.utils.data.DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=workers):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            seen.append(snapshot(model))
            optimizer.step()
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    assert "clip_coef" not in run.scalars


def test_the_recorders_share_of_the_time_is_told(tmp_path, caplog):
    model = mlp()
    caplog.set_level("INFO", logger="gradlog")
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "r.zarr", steps=5)
    found = re.search(r"5 rows recorded; recorder: (\d+\.\d+) % of wall time", caplog.text)
    assert 0 < float(found[1]) <= 100


def test_a_failing_recorder_does_not_stop_training(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    log = gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k=32)
    model[0].weight.data = torch.randn(301, 20)  # the layout no longer fits
    model[0].weight.grad = torch.randn(301, 20)
    model[0].bias.grad = torch.randn(300)
    with pytest.warns(GradlogWarning, match="training goes on"):
        optimizer.step()
    assert not log.active
    optimizer.zero_grad()
    optimizer.step()
    log.close()
    assert not optimizer._optimizer_step_pre_hooks


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
    with pytest.raises(ValueError, match="what must be"):
        gradlog.attach(torch.optim.SGD(model.parameters()), tmp_path / "r.zarr", what="momentum")
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(UnsupportedError, match="no parameter that requires"):
        gradlog.attach(torch.optim.SGD(model.parameters()), tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_wrappers_are_looked_into():
    optimizer = torch.optim.SGD(mlp().parameters())
    assert integration.unwrapped(Wrapper(Wrapper(optimizer))) is optimizer


def test_names_without_a_model():
    optimizer = torch.optim.SGD(mlp().parameters())
    assert [n for n, _ in integration.named_parameters(optimizer)] == [f"group0.{i}" for i in range(4)]
