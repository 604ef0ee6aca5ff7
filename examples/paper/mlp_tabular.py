"""A perceptron with two hidden layers of 64 on a table of 32 features, 6,532 parameters.

python -m examples.paper.mlp_tabular --optimizer sgdmom --out runs/mlp.zarr
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn
from torch.nn.functional import cross_entropy

import gradlog
from examples.paper import data, session


def mlp(features: int = 32, width: int = 64, classes: int = 4) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(features, width), relu1=nn.ReLU(),
            second=nn.Linear(width, width), relu2=nn.ReLU(),
            head=nn.Linear(width, classes),
        )
    )  # fmt: skip


def main(argv: list[str] | None = None, **options: Any) -> None:
    """Train; ``options`` go to ``gradlog.attach``."""
    rates = {"adamw": 1e-3, "adam": 1e-3, "rmsprop": 1e-3, "sgd": 0.2, "sgdmom": 0.2, "muon": 0.02}
    o = session.read(session.flags("mlp_tabular", __doc__, batch=128, rates=rates), argv)
    rows = data.table(o.seed)
    model = mlp(width=16 if o.small else 64).to(o.device)
    optimizer = session.optimizer_of(o, model)
    log = gradlog.attach(optimizer, o.out, model=model, **session.recording(o, rows, options))
    for step in session.steps(o, model, optimizer, log):
        x, y = (t.to(o.device) for t in rows.batch(0 if o.fixed_batch else step, o.batch))
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.annotate(loss=loss.item(), batch_size=len(x))


if __name__ == "__main__":
    main()
