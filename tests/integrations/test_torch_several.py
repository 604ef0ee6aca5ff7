"""Several optimizers in one run: one row per joint step, whose gradients are those that were read independently."""

from __future__ import annotations

import collections
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import gradlog
from gradlog.analysis import audit_run
from gradlog.errors import GradlogWarning, UnsupportedError
from tests.helpers.torch_loops import loss_of, snapshot, step_in_backward

pytestmark = pytest.mark.usefixtures("seeded")


def model_of() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 3))


def matrices_and_rest(model: nn.Module, fused: bool = False) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for all else, as is done."""
    hidden = [model[0].weight, model[2].weight]
    rest = [p for p in model.parameters() if all(p is not h for h in hidden)]
    return torch.optim.Muon(hidden, lr=0.02), torch.optim.AdamW(rest, lr=1e-3, fused=fused)


def train(model, optimizers, log, steps=5, change=None):
    """A plain loop. Returns the gradients as each optimizer found them, read by hooks of the test's own."""
    rows, found = [], {}
    names = {id(p): name for name, p in model.named_parameters()}

    def read(optimizer, *_):
        for group in optimizer.param_groups:
            found.update((names[id(p)], p.grad.detach().clone().numpy()) for p in group["params"])

    handles = [one.register_step_pre_hook(read) for one in optimizers]
    for _ in range(steps):
        for one in optimizers:
            one.zero_grad()
        loss = loss_of(model)
        loss.backward()
        for one in optimizers:
            if change:
                change(one)
            one.step()
        log.annotate(loss=loss.item())
        rows.append(dict(found))
    for handle in handles:
        handle.remove()
    return rows


def test_two_optimizers_make_one_row_per_joint_step(tmp_path, recorded, any_path):
    model = model_of()
    muon, adamw = matrices_and_rest(model)
    with gradlog.attach([muon, adamw], tmp_path / "r.zarr", model=model, on_error="raise", k=32) as log:
        seen = train(model, [muon, adamw], log)
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    assert run.flags == [0] * 5
    assert set(run.scalars) == {"lr/Muon", "lr/AdamW", "loss", "wall_time"}
    np.testing.assert_allclose(run.scalars["lr/Muon"], 0.02)
    np.testing.assert_allclose(run.scalars["lr/AdamW"], 1e-3)
    owner = {t.name: run.header.groups[t.group].partition("/")[0] for t in run.header.tensors}
    assert owner == {
        name: "Muon" if name in ("0.weight", "2.weight") else "AdamW" for name, _ in model.named_parameters()
    }
    assert run.header.provenance["optimizer"]["class"] == "Muon + AdamW"


def test_a_gradient_that_one_optimizer_changes_counts_as_its_own_optimizer_found_it(tmp_path, recorded):
    """The first one leaves its gradients changed, and the second's are scaled between the two steps."""
    model = model_of()
    muon, adamw = matrices_and_rest(model)
    muon.register_step_post_hook(lambda one, *_: [p.grad.zero_() for p in one.param_groups[0]["params"]])
    with gradlog.attach([muon, adamw], tmp_path / "r.zarr", model=model, on_error="raise", k=32) as log:
        seen = train(
            model, [muon, adamw], log,
            change=lambda one: one is adamw and [p.grad.mul_(3) for p in one.param_groups[0]["params"]],
        )  # fmt: skip
    assert all(np.abs(row["0.weight"]).max() > 0 for row in seen)
    recorded(tmp_path / "r.zarr").expect(seen)


def test_the_names_of_a_dict_are_those_of_the_run(tmp_path, recorded):
    model = model_of()
    first, second = (torch.optim.SGD(layer.parameters(), lr=0.1 * i) for i, layer in ((1, model[:3]), (2, model[3:])))
    with gradlog.attach({"body": first, "head": second}, tmp_path / "r.zarr", model=model, groups="all", k=32) as log:
        train(model, [first, second], log)
    run = recorded(tmp_path / "r.zarr")
    assert run.header.groups == ("body/all", "head/all")
    assert set(run.scalars) == {"lr/body", "lr/head", "loss", "wall_time"}


def test_optimizers_of_one_class_are_numbered_where_their_settings_differ(tmp_path, recorded):
    model = model_of()
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=rate) for i, rate in ((0, 0.1), (2, 0.2), (4, 0.1))]
    with gradlog.attach(optimizers, tmp_path / "r.zarr", model=model, on_error="raise", k=32) as log:
        seen = train(model, optimizers, log)
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    assert set(run.scalars) == {"lr/SGD", "lr/SGD2", "loss", "wall_time"}


def test_parameters_that_are_unfrozen_join_a_group_of_their_optimizer(tmp_path, recorded):
    """Also where their nearest relative by name is trained by another one."""
    model = model_of()
    model[0].bias.requires_grad_(False)
    muon, adamw = matrices_and_rest(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GradlogWarning)
        with gradlog.attach([muon, adamw], tmp_path / "r.zarr", model=model, on_error="raise", k=32) as log:
            for _ in range(2):
                loss_of(model).backward()
                muon.step()
                adamw.step()
                model[0].bias.requires_grad_(True)
        assert not log.reason
    run = recorded(tmp_path / "r.zarr").run
    [joined] = run.segments[1].header.joined
    assert joined.name == "0.bias"
    assert run.groups[joined.group].startswith("AdamW/")


def test_an_optimizer_that_trains_nothing_yet_has_its_own_group(tmp_path, recorded):
    """What it trains once it is unfrozen is not counted among the other's; also where the run goes on then."""
    model = model_of()
    model[4].requires_grad_(False)
    body, head = torch.optim.SGD(model[:4].parameters(), lr=0.1), torch.optim.Adam(model[4].parameters())
    own = []
    for first in (0, 2):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", GradlogWarning)
            with gradlog.attach({"b": body, "h": head}, tmp_path / "r.zarr", model=model, mode="a", k=32):
                for t in range(first, first + 2):
                    model[4].requires_grad_(t >= 1)
                    model.zero_grad()
                    loss_of(model).backward()
                    own.append(sum(float(p.grad.square().sum()) for p in model[4].parameters()) if t else 0.0)
                    body.step()
                    head.step()
        said = [str(w.message).partition(".zarr: ")[2] for w in told]
        assert [text.partition(":")[0] for text in said] == ["2 parameters joined (4.weight, 4.bias), in h/all"][first:]
    run = recorded(tmp_path / "r.zarr")
    assert list(run.run.groups) == ["b/0", "b/2", "h/all"]
    assert sum(run.run.info["group_sizes"]) == run.run.info["dimension"] > run.header.dimension
    np.testing.assert_allclose(run.norm2[:, 2], own, rtol=1e-5)
    assert "FAIL" not in {line.status for line in audit_run(tmp_path / "r.zarr").lines}


def test_an_optimizer_of_which_nothing_is_chosen_has_no_group(tmp_path, recorded):
    model = model_of()
    muon, adamw = matrices_and_rest(model)
    with gradlog.attach([muon, adamw], tmp_path / "r.zarr", model=model, include="^[02].weight", k=32) as log:
        train(model, [muon, adamw], log)
    assert list(recorded(tmp_path / "r.zarr").run.groups) == ["Muon/0", "Muon/2"]


def test_updates_of_several_optimizers_telescope(tmp_path, recorded):
    model = model_of()
    muon, adamw = matrices_and_rest(model)
    with gradlog.attach([muon, adamw], tmp_path / "r.zarr", model=model, what="update", k=32) as log:
        before = {name: p.detach().clone().numpy() for name, p in model.named_parameters()}
        train(model, [muon, adamw], log)
    run = recorded(tmp_path / "r.zarr")
    run.sketch, run.steps = run.sketch.sum(axis=0, keepdims=True), [0]
    after = {name: p.detach().numpy() for name, p in model.named_parameters()}
    run.expect([{name: after[name] - before[name] for name in before}], norms=False)


def test_every_other_joint_step(tmp_path, recorded):
    model = model_of()
    muon, adamw = matrices_and_rest(model)
    with gradlog.attach([muon, adamw], tmp_path / "r.zarr", model=model, on_error="raise", every=2, k=32) as log:
        seen = train(model, [muon, adamw], log)
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [0, 2, 4]
    run.expect(seen[::2])


def test_gradients_before_clipping_of_each_and_of_all(tmp_path, recorded):
    for name, together in (("all", True), ("each", False)):
        model = model_of()
        muon, adamw = matrices_and_rest(model)
        seen = []
        path = tmp_path / f"{name}.zarr"
        with gradlog.attach([muon, adamw], path, model=model, on_error="raise", stage="preclip", k=32):
            for _ in range(3):
                muon.zero_grad()
                adamw.zero_grad()
                loss_of(model).backward()
                seen.append(snapshot(model))
                if together:
                    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
                for one in (muon, adamw):
                    if not together:
                        nn.utils.clip_grad_norm_([p for g in one.param_groups for p in g["params"]], 1e-3)
                    one.step()
        run = recorded(path)
        run.expect(seen)
        assert ("clip_norm/1" in run.scalars) is not together


def test_a_step_that_the_scaler_skips_is_one_skipped_row(tmp_path, recorded):
    """One optimizer takes scaled gradients and unscales them itself; the other's are unscaled before."""
    model = model_of()
    muon, adamw = matrices_and_rest(model, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
    seen = []
    with gradlog.attach([muon, adamw], tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for t in range(4):
            muon.zero_grad()
            adamw.zero_grad()
            scale = scaler.get_scale()
            scaler.scale(loss_of(model)).backward()
            if t == 2:
                model[0].weight.grad[0, 0] = float("inf")
            seen.append({name: g / scale for name, g in snapshot(model).items()})
            scaler.step(muon)
            scaler.step(adamw)
            scaler.update()
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [0, 1, 2, 3]
    assert [bool(f & 2) for f in run.flags] == [False, False, True, False]
    finite = [0, 1, 3]
    run.sketch, run.norm2, run.steps = run.sketch[finite], run.norm2[finite], finite
    run.expect([seen[t] for t in finite])
    np.testing.assert_allclose(run.scalars["loss_scale"], [8, 8, 8, 4])


def test_optimizers_in_the_backward_pass_make_one_run(tmp_path, recorded, any_path):
    model = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(20, 20), nn.Tanh())])
    seen = []
    optimizers, found = step_in_backward(model, lambda params: torch.optim.Adam(params, lr=1e-3, foreach=False))
    with gradlog.attach(optimizers, tmp_path / "r.zarr", model=model, on_error="raise", k=32) as log:
        for _ in range(4):
            loss_of(model).backward()
            log.annotate(loss=1.0)
            seen.append(dict(found))
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    assert run.flags == [0] * 4
    assert set(run.scalars) == {"lr", "loss", "wall_time"}
    assert len(run.header.groups) == 6


def test_an_optimizer_that_sits_out_leaves_partial_rows_and_is_told_of_once(tmp_path, recorded):
    model = model_of()
    muon, adamw = matrices_and_rest(model)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", GradlogWarning)
        with gradlog.attach([muon, adamw], tmp_path / "r.zarr", model=model, on_error="raise", k=32):
            for t in range(5):
                loss_of(model).backward()
                muon.step()
                if t % 2 == 0:
                    adamw.step()
                muon.zero_grad()
                adamw.zero_grad()
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [0, 1, 2, 3, 4]
    assert [bool(f & 4) for f in run.flags] == [False, True, False, True, False]
    assert sum("stepped again before AdamW" in str(w.message) for w in told) == 1


def test_the_last_row_is_written_though_an_optimizer_has_no_part_in_it(tmp_path, recorded):
    model = model_of()
    muon, adamw = matrices_and_rest(model)
    with gradlog.attach([muon, adamw], tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        loss_of(model).backward()
        muon.step()
        adamw.step()
        muon.step()
    assert recorded(tmp_path / "r.zarr").steps == [0, 1]


@pytest.mark.parametrize("steps_first", [0, 1])
@pytest.mark.parametrize("what", ["gradient", "update"])
def test_no_row_waits_for_an_optimizer_whose_parameters_are_frozen(tmp_path, recorded, steps_first, what):
    """It takes no step meanwhile. Unfrozen, its parameters join; frozen while others join, they are not forgotten."""
    model = model_of()
    body, head = torch.optim.SGD(model[:4].parameters(), lr=0.1), torch.optim.SGD(model[4].parameters(), lr=0.2)
    for layer in (model[0], model[4]):
        layer.requires_grad_(False)
    seen = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", GradlogWarning)
        with gradlog.attach({"b": body, "h": head}, tmp_path / "r.zarr", model=model, what=what, k=32) as log:
            for t, frozen in enumerate([True, True, False, True, False]):
                model[0].requires_grad_(t >= 3)
                model[4].requires_grad_(not frozen)
                model.zero_grad()
                loss_of(model).backward()
                seen.append({name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None})
                for one in [body] if frozen and t < 3 else [head, body][:: 1 - 2 * steps_first]:
                    one.step()
                log.annotate(loss=t)
    run = recorded(tmp_path / "r.zarr")
    assert (run.steps, run.scalars["loss"].tolist()) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    assert [str(w.message).partition(".zarr: ")[2][:19] for w in told] == ["2 parameters joined"] * 2
    if what == "gradient":
        squares = [sum(float(np.square(g).sum()) for g in row.values()) for row in seen]
        np.testing.assert_allclose(run.norm2.sum(axis=1), squares, rtol=1e-5)
        assert [bool(f & 4) for f in run.flags] == [False, False, False, True, False]


def test_a_closure_is_read_after_its_backward_pass(tmp_path, recorded):
    model = model_of()
    muon, adamw = matrices_and_rest(model)
    seen = collections.defaultdict(dict)
    with gradlog.attach([muon, adamw], tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for t in range(3):
            for one in (muon, adamw):

                def closure(one=one, t=t):
                    muon.zero_grad()
                    adamw.zero_grad()
                    loss = loss_of(model)
                    loss.backward()
                    mine = {id(p) for g in one.param_groups for p in g["params"]}
                    grads = snapshot(model)
                    seen[t].update({name: grads[name] for name, p in model.named_parameters() if id(p) in mine})
                    return loss

                one.step(closure)
    recorded(tmp_path / "r.zarr").expect([seen[t] for t in range(3)])


def test_parameters_without_a_model_are_named_by_optimizer_and_place(tmp_path, recorded):
    model = model_of()
    muon, adamw = matrices_and_rest(model)
    with gradlog.attach([muon, adamw], tmp_path / "r.zarr", k=32) as log:
        train(model, [muon, adamw], log)
    names = [t.name for t in recorded(tmp_path / "r.zarr").header.tensors]
    assert names[:3] == ["Muon.group0.0", "Muon.group0.1", "AdamW.group0.0"]


def test_what_cannot_be_one_run_is_refused(tmp_path):
    model = model_of()
    twice = [torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2)]
    with pytest.raises(UnsupportedError, match="hold the same parameter"):
        gradlog.attach(twice, tmp_path / "r.zarr", model=model)
    with pytest.raises(UnsupportedError, match="takes one optimizer"):
        gradlog.attach(list(matrices_and_rest(model)), tmp_path / "r.zarr", model=model, stage="local")
    with pytest.raises(ValueError, match="at least one optimizer"):
        gradlog.attach([], tmp_path / "r.zarr", model=model)
    for given in ([twice[0], "Adam"], {"a": twice[0], "b": "Adam"}):
        with pytest.raises(TypeError, match="expected torch optimizers, got str"):
            gradlog.attach(given, tmp_path / "r.zarr", model=model)
    assert not list(tmp_path.iterdir())


def test_all_hooks_go_with_the_recording(tmp_path):
    model = model_of()
    both = matrices_and_rest(model)
    gradlog.attach(list(both), tmp_path / "r.zarr", model=model, k=32).close("nothing to do")
    for one in both:
        assert not one._optimizer_step_pre_hooks
        assert not one._optimizer_step_post_hooks


class Again(torch.optim.SGD):
    """Does what its parent does: the hooks of both fire."""

    def step(self, closure=None):
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.grad.mul_(0.5)
        return super().step(closure)


def test_a_gradient_that_is_read_twice_in_a_step_counts_once(tmp_path, recorded):
    """As it was read last, where the parent of an optimizer has hooks too."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)  # which makes the parent's hooks fire
    model = model_of()
    twice, once = Again(model[0].parameters(), lr=0.1), torch.optim.Adam([*model[2:].parameters()])
    with gradlog.attach([twice, once], tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        seen = []
        for _ in range(3):
            model.zero_grad()
            loss_of(model).backward()
            seen.append({name: g * (0.5 if name[0] == "0" else 1) for name, g in snapshot(model).items()})
            twice.step()
            once.step()
    recorded(tmp_path / "r.zarr").expect(seen)
