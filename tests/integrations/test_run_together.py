"""``gradlog run`` tells by their steps which optimizers make one run, and loses none of their first rows."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from gradlog.integrations.script import ScriptRecorder
from tests.helpers.torch_loops import snapshot, step_in_backward
from tests.integrations.warm import gradlog_run, server

__all__ = ["gradlog_run", "server"]

pytestmark = pytest.mark.usefixtures("seeded")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.body(x).tanh())


@pytest.fixture
def record(tmp_path, nobody_else_trains):
    """Record what a function trains, as ``gradlog run`` does with a script; return the names of the stores."""

    def run(train, **options):
        recorder = ScriptRecorder(tmp_path / "r.zarr", k=16, on_error="raise", **options)
        try:
            result = train()
        finally:
            recorder.close()
        return sorted(p.name for p in tmp_path.glob("*.zarr")), result

    return run


def gradients(optimizer, model):
    """Of what an optimizer trains, by name."""
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = {name: p for name, p in model.named_parameters() if id(p) in mine}
    return {name: p.grad.detach().clone().numpy() for name, p in named.items()}


def of_body_and_head(model, *rates):
    """An optimizer for each."""
    parts = (model.body, model.head)
    return [torch.optim.SGD(part.parameters(), lr=rate) for part, rate in zip(parts, rates, strict=True)]


def do_nothing_closure():
    """Stand for Lightning's, which it wraps and hands to every step of a manual loop."""


def wrapped(closure):
    return closure()


def muon_and_adamw(steps=4, args=()):
    model = Net()
    muon = torch.optim.Muon([model.body.weight], lr=0.02)
    adamw = torch.optim.AdamW([model.body.bias, *model.head.parameters()], lr=1e-3)
    seen = []
    for _ in range(steps):
        muon.zero_grad()
        adamw.zero_grad()
        model(torch.randn(5, 8)).square().mean().backward()
        seen.append(snapshot(model))
        muon.step(*args)
        adamw.step(*args)
    return seen


def test_a_closure_that_does_nothing_keeps_no_step_from_being_joint(record, recorded, tmp_path):
    names, seen = record(lambda: muon_and_adamw(args=[functools.partial(wrapped, do_nothing_closure)]))
    assert names == ["r.zarr"]
    recorded(tmp_path / "r.zarr").expect(seen)


@pytest.mark.parametrize("what", ["gradient", "update"])
def test_optimizers_that_step_together_make_one_run(record, recorded, tmp_path, capsys, what):
    names, seen = record(muon_and_adamw, what=what)
    assert names == ["r.zarr"]
    assert "2 optimizers (Muon, AdamW) step together and make one run" in capsys.readouterr().err
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [0, 1, 2, 3]
    assert run.flags == [0] * 4
    assert {"lr/Muon", "lr/AdamW"} <= set(run.scalars)
    if what == "gradient":
        run.expect(seen)
    else:
        assert (run.norm2.min(axis=0) > 0).all()


def test_the_start_is_kept_as_it_was_before_the_first_step(record, recorded, tmp_path):
    """Of the first step, which was taken before there was a run, too: updates lead from the start to the end."""
    model = Net()
    start = {name: p.detach().clone().numpy() for name, p in model.named_parameters()}
    both = of_body_and_head(model, 0.1, 0.2)

    def train():
        for _ in range(3):
            model(torch.ones(5, 8)).square().mean().backward()
            for one in both:
                one.step()
                one.zero_grad()

    record(train, what="update")
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [0, 1, 2]
    run.sketch, run.steps = run.sketch.sum(axis=0, keepdims=True), [0]
    run.expect([{name: p.detach().numpy() - start[name] for name, p in model.named_parameters()}], norms=False)


@pytest.mark.parametrize("generator_first", [False, True])
def test_a_gan_makes_two_runs(record, recorded, tmp_path, capsys, generator_first):
    """The generator's backward pass leaves gradients in the critic, whichever comes first."""

    def train():
        generator, critic = nn.Linear(4, 8), Net()
        to_make = torch.optim.Adam(generator.parameters(), lr=1e-3)
        to_judge = torch.optim.Adam(critic.parameters(), lr=1e-3)
        made, judged = [], []
        for t in range(6):
            if (t % 2 == 0) == generator_first:
                to_make.zero_grad()
                (-critic(generator(torch.randn(5, 4))).mean()).backward()
                made.append(gradients(to_make, generator))
                to_make.step()
            else:
                to_judge.zero_grad()
                critic(generator(torch.randn(5, 4)).detach()).mean().backward()
                critic(torch.randn(5, 8)).mean().neg().backward()
                judged.append(gradients(to_judge, critic))
                to_judge.step()
        return made, judged

    names, (made, judged) = record(train)
    assert names == ["r.optimizer2.zarr", "r.zarr"]
    assert "step together" not in capsys.readouterr().err
    first, second = (made, judged) if generator_first else (judged, made)
    recorded(tmp_path / "r.zarr").expect(first)
    recorded(tmp_path / "r.optimizer2.zarr").expect(second)


def test_actor_and_critic_that_take_turns_make_two_runs(record, recorded, tmp_path):
    """The actor's loss passes through the critic, which steps more often."""

    def train():
        actor, critic = nn.Linear(3, 8), Net()
        of_actor = torch.optim.Adam(actor.parameters())
        of_critic = torch.optim.Adam(critic.parameters())
        rows = {"actor": [], "critic": []}
        for t in range(6):
            of_critic.zero_grad()
            critic(torch.randn(5, 8)).square().mean().backward()
            rows["critic"].append(gradients(of_critic, critic))
            of_critic.step()
            if t % 2 == 1:
                of_actor.zero_grad()
                (-critic(actor(torch.randn(5, 3))).mean()).backward()
                rows["actor"].append(gradients(of_actor, actor))
                of_actor.step()
        return rows

    names, rows = record(train)
    assert names == ["r.optimizer2.zarr", "r.zarr"]
    recorded(tmp_path / "r.zarr").expect(rows["critic"])
    recorded(tmp_path / "r.optimizer2.zarr").expect(rows["actor"])


def test_one_optimizer_per_parameter_inside_the_backward_pass_makes_one_run(record, recorded, tmp_path):
    class Adam(torch.optim.Adam):
        """No optimizer of another test is of this class."""

    def train():
        model = Net()
        optimizers, found = step_in_backward(model, lambda params: Adam(params, lr=1e-3))
        seen = []
        for _ in range(3):
            model(torch.randn(5, 8)).square().mean().backward()
            seen.append(dict(found))
        return seen, optimizers

    names, (seen, _) = record(train)
    assert names == ["r.zarr"]
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    assert "lr" in run.scalars


def test_runs_are_separate_if_the_user_says_so(record, recorded, tmp_path):
    names, seen = record(muon_and_adamw, optimizers="separate")
    assert names == ["r.optimizer2.zarr", "r.zarr"]
    recorded(tmp_path / "r.zarr").expect([{"body.weight": row["body.weight"]} for row in seen])


TURNS = """
import torch
torch.manual_seed(0)
generator, critic = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)
both = [torch.optim.Adam(critic.parameters(), lr=0.1), torch.optim.Adam(generator.parameters(), lr=0.2)]
for _ in range(3):
    for one in both:
        one.zero_grad()
        critic(generator(torch.randn(5, 4))).mean().backward()
        one.step()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("choice", "groups"), [("auto", 1), ("together", 2)])
def test_optimizers_that_take_turns_make_one_run_if_the_user_says_so(tmp_path, recorded, gradlog_run, choice, groups):
    (tmp_path / "turns.py").write_text(TURNS)
    done = gradlog_run("--k", "8", "--groups", "all", "--optimizers", choice, "turns.py")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.zarr"))) == 3 - groups
    run = recorded(tmp_path / "turns.zarr")
    assert (run.steps, len(run.header.groups)) == ([0, 1, 2], groups)


def test_a_script_that_ends_after_a_held_step_keeps_its_row(record, recorded, tmp_path):
    """Only one of two optimizers with gradients has stepped when the script ends."""

    def train():
        model = Net()
        first, second = of_body_and_head(model, 0.1, 0.1)
        model(torch.randn(5, 8)).square().mean().backward()
        seen = gradients(first, model.body)
        first.step()
        return [{f"body.{name}": g for name, g in seen.items()}], second

    names, (seen, _) = record(train)
    assert names == ["r.zarr"]
    recorded(tmp_path / "r.zarr").expect(seen)


def test_an_optimizer_whose_gradients_nobody_uses_holds_no_row_back(record, recorded, tmp_path):
    def train():
        model = Net()
        first, idle = of_body_and_head(model, 0.1, 0.1)
        seen = []
        for _ in range(3):
            first.zero_grad()
            model(torch.randn(5, 8)).square().mean().backward()
            seen.append({f"body.{name}": g for name, g in gradients(first, model.body).items()})
            first.step()
        return seen, idle

    names, (seen, _) = record(train)
    assert names == ["r.zarr"]
    recorded(tmp_path / "r.zarr").expect(seen)


def test_a_run_of_several_goes_on_where_their_state_has_counted_to(record, recorded, tmp_path, capsys):
    model = Net()

    def optimizers():
        return [torch.optim.Adam(model.body.parameters(), lr=1e-3), torch.optim.Adam(model.head.parameters(), lr=1e-2)]

    state = [one.state_dict() for one in optimizers()]

    def train():
        both = optimizers()
        for one, known in zip(both, state, strict=True):
            one.load_state_dict(known)
        for _ in range(3):
            model(torch.randn(5, 8)).square().mean().backward()
            for one in both:
                one.step()
                one.zero_grad()
        state[:] = [one.state_dict() for one in both]

    record(train)
    record(train, mode="a")
    assert "r.zarr goes on at step 3, which the optimizer has counted" in capsys.readouterr().err
    assert recorded(tmp_path / "r.zarr").steps == list(range(6))


class Around(torch.optim.Optimizer):
    """Lets another optimizer do its work."""

    def __init__(self, params, base, **options):
        super().__init__(params, options)
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure=None):
        return self.base_optimizer.step(closure)


@pytest.mark.parametrize("alone", [True, False])
def test_an_optimizer_inside_another_makes_no_run_of_its_own(record, recorded, tmp_path, alone):
    def train():
        model = Net()
        both = [
            Around(model.body.parameters() if not alone else model.parameters(), torch.optim.SGD, lr=0.1),
            *([] if alone else [torch.optim.Adam(model.head.parameters(), lr=0.1)]),
        ]
        seen = []
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(5, 8)).square().mean().backward()
            seen.append(snapshot(model))
            for one in both:
                one.step()
        return seen

    names, seen = record(train)
    assert names == ["r.zarr"]
    recorded(tmp_path / "r.zarr").expect(seen)


def test_torchs_own_backward_is_wrapped_only_while_a_step_is_held_or_recorded(record):
    own, found = torch.autograd.backward, []

    def train():
        model = Net()
        both = of_body_and_head(model, 0.1, 0.1)
        for _ in range(2):
            model(torch.randn(5, 8)).square().mean().backward()
            for one in both:
                one.step()
                found.append(torch.autograd.backward is own)
                one.zero_grad()

    record(train)
    assert found == [False] * 4
    assert torch.autograd.backward is own


def test_held_steps_are_those_of_their_moment(record, recorded, tmp_path):
    """Gradients, learning rate and values may all change before the run begins."""

    def train():
        model = Net()
        first, second = of_body_and_head(model, 0.5, 0.1)
        seen = []
        for _ in range(2):
            model(torch.randn(5, 8)).square().mean().backward()
            seen.append(snapshot(model))
            first.step()
            first.zero_grad(set_to_none=False)
            first.param_groups[0]["lr"] *= 0.5
            second.step()
            second.zero_grad()
        return seen

    names, seen = record(train)
    assert names == ["r.zarr"]
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    np.testing.assert_allclose(run.scalars["lr/SGD"], [0.5, 0.25])
