"""Whatever the parameters are: their precision, layout and kind; joined late, sketched themselves, or as updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import gradlog
import gradlog.analysis
from gradlog.errors import GradlogWarning
from gradlog.format.header import PARTIAL
from gradlog.sketching.fold_hash import FoldHash
from tests.helpers.torch_loops import loss_of, mlp, snapshot

pytestmark = pytest.mark.usefixtures("seeded")


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


@pytest.mark.parametrize("what", ["gradient", "update", ("gradient", "update")])
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
    with gradlog.attach(optimizer, tmp_path / "r.zarr", norms_every=100, **options):  # which are there, once
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
    if "gradient" in what:
        np.testing.assert_allclose(run.sketch[-1, 0], last, rtol=1e-4, atol=1e-5)
    if "update" in what:
        updates = run.run.updates.read(0, len(run.steps)).reshape(run.sketch.shape)
        np.testing.assert_allclose(updates[:, 0].sum(0), moved, rtol=1e-4, atol=1e-5)


def test_parameters_that_take_the_place_of_others_join_the_run(tmp_path, recorded):
    """As many are unfrozen as are frozen: the number of those that train does not tell."""
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    model[1].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32, groups="all"):
        step()
        model[0].requires_grad_(False)
        model[1].requires_grad_(True)
        with pytest.warns(GradlogWarning, match=r"2 parameters joined \(1.weight, 1.bias\), in all: groups are"):
            step()
        step()
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [0, 1, 2]
    assert run.run.joined == [{"step": 1, "names": ["1.weight", "1.bias"]}]
    S = FoldHash(32, 0)
    last = sum(S.sketch(p.grad.numpy().reshape(-1), n) for n, p in model.named_parameters() if p.grad is not None)
    np.testing.assert_allclose(run.sketch[-1, 0], last, rtol=1e-4, atol=1e-5)


def replaced_layer(path, width):
    """Two steps, a new last layer of some width under the old names, and two more."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    log = gradlog.attach(optimizer, path, model=model, k=32)
    for t in range(4):
        if t == 2:
            model[2] = nn.Linear(300, width)
            optimizer.param_groups[0]["params"] = list(model.parameters())
        optimizer.zero_grad()
        loss_of(model).backward()
        seen.append(snapshot(model))
        optimizer.step()
    log.close()
    return seen, log.reason


def test_a_layer_made_anew_is_recorded_in_the_place_of_the_old_one(tmp_path, recorded):
    seen, reason = replaced_layer(tmp_path / "r.zarr", 3)
    assert reason == ""
    recorded(tmp_path / "r.zarr").expect(seen)


def test_a_layer_of_another_size_ends_the_recording_and_says_so(tmp_path, recorded):
    with pytest.warns(
        GradlogWarning, match=r"2.weight: expected a parameter of shape \(3, 300\), got one of \(4, 300\)"
    ):
        seen, _ = replaced_layer(tmp_path / "r.zarr", 4)
    recorded(tmp_path / "r.zarr").expect(seen[:2])


@pytest.mark.parametrize("kind", [{"k": "exact"}, {"k": 512, "sketch": "fold-hash/2", "groups": "tensors"}])
def test_parameters_that_a_fixed_layout_cannot_take_are_told_once(tmp_path, kind):
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    model[1].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", **kind):
        model.requires_grad_(True)
        loss_of(model).backward()
        with pytest.warns(GradlogWarning, match="2 parameters were added or unfrozen after attach") as told:
            optimizer.step()
            optimizer.step()
    assert len(told) == 1
    assert "are not recorded" in gradlog.analysis.open_run(tmp_path / "r.zarr").segments[0].header.reason


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


def test_update_rows_telescope(tmp_path, recorded, any_path):
    """The rows of what="update" add up to the sketch of the difference of two checkpoints."""
    from gradlog.sketching.fold_hash import FoldHash

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


@pytest.mark.parametrize("setting", ["device", "dtype"])
def test_torchs_defaults_are_none_of_ours(tmp_path, recorded, any_path, setting):
    """Whatever the script makes the default for new tensors, while steps are taken."""
    model = mlp(device="cpu", dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    change, back = {
        "device": (lambda: torch.set_default_device("meta"), lambda: torch.set_default_device("cpu")),
        "dtype": (lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_dtype(torch.float32)),
    }[setting]
    seen = []
    change()
    try:
        with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
            for _ in range(2):
                optimizer.zero_grad()
                model(torch.randn(8, 20, device="cpu", dtype=torch.float32)).square().mean().backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                seen.append(snapshot(model))
                optimizer.step()
    finally:
        back()
    recorded(tmp_path / "r.zarr").expect(seen)


class Twice(nn.Module):
    """Two layers whose names differ by a prefix that wrappers use."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 5)
        self.module = nn.ModuleDict({"layer": nn.Linear(20, 5)})

    def forward(self, x):
        return self.layer(x) + self.module["layer"](x)


def test_prefixes_that_tell_two_parameters_apart_are_kept(tmp_path, recorded):
    model = Twice()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        loss_of(model).backward()
        seen = [snapshot(model)]
        optimizer.step()
    recorded(tmp_path / "r.zarr").expect(seen)
