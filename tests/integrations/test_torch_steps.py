"""What counts as a step, and which gradient it consumed: closures, hooks in any order, optimizers in optimizers."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch

import gradlog
from tests.helpers.torch_loops import loss_of, mlp, snapshot

pytestmark = pytest.mark.usefixtures("seeded")


class InPlace(torch.optim.Optimizer):
    """Plain descent with coupled decay that is added to ``p.grad`` itself."""

    def __init__(self, params, lr=0.1, decay=0.3):
        super().__init__(params, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.add_(p, alpha=group["decay"])
                    p.sub_(p.grad, alpha=group["lr"])
        return loss


class WithALoss(InPlace):
    def step(self, loss):
        assert torch.is_tensor(loss)
        super().step()


class Shrinking(torch.optim.SGD):
    """Does something of its own, then what its parent does."""

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(1 - 1e-3)
                    if p.grad is not None:
                        p.grad.mul_(0.5)
        return super().step(closure)


class Sharpness(torch.optim.Optimizer):
    """SAM: the gradient at the top of the hill is the one that the optimizer inside is handed."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        norm = torch.sqrt(sum((p.grad**2).sum() for group in self.param_groups for p in group["params"]))
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["uphill"] = p.grad * (group["rho"] / (norm + 1e-12))
                p.add_(self.state[p]["uphill"])
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(self.state[p]["uphill"])
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure):
        closure = torch.enable_grad()(closure)
        self.first_step()
        closure()
        self.second_step()


class Lookahead(torch.optim.Optimizer):
    """As timm writes it: torch's ``__init__`` is never called, so that this class has hooks which do not fire."""

    def __init__(self, base, every=2):
        self._optimizer_step_pre_hooks = collections.OrderedDict()
        self._optimizer_step_post_hooks = collections.OrderedDict()
        self._base_optimizer = base
        self.param_groups, self.state, self.defaults = base.param_groups, base.state, base.defaults

    def step(self, closure=None):
        return self._base_optimizer.step(closure)


class Alone(Lookahead):
    """Hooks which do not fire, and no optimizer inside that would."""

    def __init__(self, base):
        super().__init__(base)
        del self._base_optimizer

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=0.1)


def recorded_loop(path, make, step=None, register=None, steps=4, **options):
    """Train a model that is recorded and its twin that is not; return what the loop itself saw of the gradient."""
    seen, weights = [], []
    for attached in (False, True):
        torch.manual_seed(1)
        model = mlp()
        optimizer = make(model.parameters())
        log = gradlog.attach(optimizer, path, model=model, on_error="raise", k=32, **options) if attached else None
        if register:
            register(optimizer)
        for _ in range(steps):
            x, last = torch.randn(8, 20), []

            def closure(model=model, optimizer=optimizer, x=x, last=last):
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                last.append(snapshot(model))
                return loss

            (step or (lambda optimizer, closure: optimizer.step(closure)))(optimizer, closure)
            if attached:
                seen.append(last[-1])
        weights.append([p.detach().clone() for p in model.parameters()])
        if log is not None:
            log.close()
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    return seen


def backward_first(optimizer, closure):
    closure()
    optimizer.step()


def in_two_halves(optimizer, closure):
    closure()
    optimizer.first_step()
    closure()
    optimizer.second_step()


@pytest.mark.parametrize("step", [None, backward_first], ids=["closure", "backward first"])
def test_an_optimizer_that_works_in_the_gradients_memory(tmp_path, recorded, step, any_path):
    seen = recorded_loop(tmp_path / "r.zarr", InPlace, step)
    recorded(tmp_path / "r.zarr").expect(seen)


def test_a_loss_is_no_closure(tmp_path, recorded):
    seen = recorded_loop(tmp_path / "r.zarr", WithALoss, lambda optimizer, closure: optimizer.step(closure()))
    recorded(tmp_path / "r.zarr").expect(seen)


def test_a_closure_that_the_optimizer_never_calls(tmp_path, recorded):
    def step(optimizer, closure):
        closure()
        optimizer.step(closure)

    class Deaf(torch.optim.SGD):
        def step(self, closure=None):
            return super().step()

    seen = recorded_loop(tmp_path / "r.zarr", lambda params: Deaf(params, lr=0.1), step)
    recorded(tmp_path / "r.zarr").expect(seen)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hook_that_changes_the_gradient(tmp_path, recorded, when):
    """Whether it was registered before attach or after: it is part of what the optimizer consumed."""

    def tenth(optimizer, args, kwargs):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad.mul_(0.1)

    def early(params):
        optimizer = torch.optim.SGD(params, lr=0.1)
        if when == "before":
            optimizer.register_step_pre_hook(tenth)
        return optimizer

    def late(optimizer):
        if when == "after":
            optimizer.register_step_pre_hook(tenth).remove()
            optimizer.register_step_pre_hook(tenth)

    seen = recorded_loop(tmp_path / "r.zarr", early, backward_first, late)
    recorded(tmp_path / "r.zarr").expect([{n: 0.1 * g for n, g in row.items()} for row in seen])


@pytest.mark.parametrize("what", ["gradient", "update"])
def test_a_step_that_calls_its_parents_step_is_one_step(tmp_path, recorded, what):
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # from here on the parent's hooks fire too
    model = mlp()
    before = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
    optimizer = Shrinking(model.parameters(), lr=0.1)
    rows = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32, what=what) as log:
        for t in range(3):
            optimizer.zero_grad()
            loss_of(model).backward()
            gradient = {n: 0.5 * g for n, g in snapshot(model).items()}  # Shrinking halves it
            optimizer.step()
            log.annotate(loss=float(t))
            after = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
            rows.append(gradient if what == "gradient" else {n: after[n] - before[n] for n in after})
            before = after
    run = recorded(tmp_path / "r.zarr")
    run.expect(rows, rtol=1e-4, norms=what == "gradient")
    assert run.scalars["loss"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("step", [in_two_halves, None], ids=["two halves", "closure"])
def test_the_second_gradient_of_sam_is_recorded(tmp_path, recorded, step):
    make = lambda params: Sharpness(params, torch.optim.SGD, lr=0.5)  # noqa: E731
    with_closure = lambda optimizer, closure: (closure(), optimizer.step(closure))  # noqa: E731
    seen = recorded_loop(tmp_path / "r.zarr", make, step or with_closure)
    recorded(tmp_path / "r.zarr").expect(seen)


@pytest.mark.parametrize("step", [backward_first, None], ids=["backward first", "closure"])
def test_an_optimizer_around_another_one(tmp_path, recorded, step):
    seen = recorded_loop(tmp_path / "r.zarr", lambda params: Lookahead(InPlace(params)), step)
    recorded(tmp_path / "r.zarr").expect(seen)


def test_hooks_that_torch_never_set_up(tmp_path, recorded):
    seen = recorded_loop(tmp_path / "r.zarr", lambda params: Alone(InPlace(params)), backward_first)
    recorded(tmp_path / "r.zarr").expect(seen)


def test_a_step_that_raises_leaves_no_row_and_the_next_one_counts(tmp_path, recorded):
    model = mlp()
    optimizer = InPlace(model.parameters())
    seen = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise", k=32):
        for t in range(4):

            def closure(fails=t == 1):
                optimizer.zero_grad()
                loss_of(model).backward()
                if fails:
                    raise FloatingPointError("a bad batch")
                seen.append(snapshot(model))

            if t == 1:
                with pytest.raises(FloatingPointError):
                    optimizer.step(closure)
            else:
                optimizer.step(closure)
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    assert run.steps == [0, 1, 2]


def test_two_recordings_of_one_optimizer_and_a_hook_after_both(tmp_path, recorded):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = gradlog.attach(optimizer, tmp_path / "a.zarr", model=model, k=32, on_error="raise")
    second = gradlog.attach(optimizer, tmp_path / "b.zarr", model=model, k=32, on_error="raise")
    optimizer.register_step_pre_hook(lambda o, a, k: torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3) and None)
    for log in (first, second):
        loss_of(model).backward()
        optimizer.step()
        log.close()
    norms = [np.sqrt(recorded(tmp_path / f"{x}.zarr").norm2.sum(1)) for x in "ab"]
    np.testing.assert_allclose(norms[0], [1e-3], rtol=1e-2)
    np.testing.assert_allclose(norms[1], [1e-3] * 2, rtol=1e-2)
    assert "register_step_pre_hook" not in vars(optimizer)
