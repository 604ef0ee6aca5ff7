"""Parameters are chosen by name in each framework: adapters (LoRA), embeddings, all but norms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import gradlog
from gradlog.integrations.script import ScriptRecorder
from tests.helpers.torch_loops import snapshot

pytestmark = pytest.mark.usefixtures("seeded")


class Adapted(nn.Module):
    """An embedding, and a linear layer with a low-rank adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(50, 12)
        self.base = nn.Linear(12, 12)
        self.lora_a, self.lora_b = nn.Linear(12, 2, bias=False), nn.Linear(2, 12, bias=False)

    def forward(self, x):
        h = self.emb(x)
        return self.base(h) + self.lora_b(self.lora_a(h))


def loop(model, optimizers, steps=3):
    seen = []
    for _ in range(steps):
        for one in optimizers:
            one.zero_grad()
        model(torch.randint(50, (6,))).square().mean().backward()
        seen.append(snapshot(model))
        for one in optimizers:
            one.step()
    return seen


def some(rows, names):
    return [{name: row[name] for name in names} for row in rows]


@pytest.mark.parametrize(("choice", "expected"), [
    ({"include": "lora"}, ["lora_a.weight", "lora_b.weight"]),
    ({"include": "^emb"}, ["emb.weight"]),
    ({"exclude": ["emb", "bias"]}, ["base.weight", "lora_a.weight", "lora_b.weight"]),
    ({"groups": lambda name: "lora" if "lora" in name else None}, ["lora_a.weight", "lora_b.weight"]),
])  # fmt: skip
def test_attach_records_the_chosen_parameters(tmp_path, recorded, any_path, choice, expected):
    model = Adapted()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model, k=16, on_error="raise", **choice):
        seen = loop(model, [optimizer])
    run = recorded(tmp_path / "r.zarr")
    run.expect(some(seen, expected))
    assert run.flags == [0, 0, 0]


def test_of_several_optimizers_too(tmp_path, recorded):
    model = Adapted()
    muon = torch.optim.Muon([model.base.weight, model.lora_a.weight, model.lora_b.weight], lr=0.01)
    adamw = torch.optim.AdamW([model.emb.weight, model.base.bias])
    with gradlog.attach([muon, adamw], tmp_path / "r.zarr", model, k=16, on_error="raise", exclude="^emb|lora"):
        seen = loop(model, [muon, adamw])
    run = recorded(tmp_path / "r.zarr")
    run.expect(some(seen, ["base.weight", "base.bias"]))
    assert run.header.groups == ("Muon/base", "AdamW/base")


def test_a_choice_of_nothing_is_refused(tmp_path):
    model = Adapted()
    with pytest.raises(ValueError, match=r"choose none of the parameters, which are emb\.weight"):
        gradlog.attach(torch.optim.Adam(model.parameters()), tmp_path / "r.zarr", model, include="nothing")
    assert not list(tmp_path.iterdir())


def test_parameters_that_are_unfrozen_later_join_if_they_are_chosen(tmp_path, recorded):
    model = Adapted()
    model.base.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model, k=16, on_error="raise", exclude=["emb", "bias"]):
        model(torch.randint(50, (6,))).square().mean().backward()
        optimizer.step()
        model.base.requires_grad_(True)
        optimizer.add_param_group({"params": list(model.base.parameters())})
        with pytest.warns(UserWarning, match="1 parameters joined"):
            seen = loop(model, [optimizer], 2)
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [0, 1, 2]
    expected = np.square(seen[-1]["base.weight"]).sum() + np.square(seen[-1]["lora_a.weight"]).sum()
    expected += np.square(seen[-1]["lora_b.weight"]).sum()
    np.testing.assert_allclose(run.norm2[-1].sum(), expected, rtol=1e-4)


def test_gradlog_run_takes_the_choice(tmp_path, recorded, nobody_else_trains):
    model = Adapted()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    recorder = ScriptRecorder(tmp_path / "r.zarr", k=16, include=("lora",), exclude=("_b",))
    seen = loop(model, [optimizer])
    recorder.close()
    recorded(tmp_path / "r.zarr").expect(some(seen, ["lora_a.weight"]))
