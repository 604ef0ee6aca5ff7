"""A transformer encoder of 2 layers x 64 on sequences of 16 digits, 0.1 million parameters.

python -m examples.paper.tiny_transformer --optimizer rmsprop --out runs/tiny.zarr
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gradlog
from examples.paper import data, session


class TinyTransformer(nn.Module):
    """Token and place embeddings, post-norm encoder, one prediction a place."""

    def __init__(self, tokens: int = 10, length: int = 16, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.token = nn.Embedding(tokens, width)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.token(x) + self.place))


def main(argv: list[str] | None = None, **options: Any) -> None:
    """Train; ``options`` go to ``gradlog.attach``."""
    parser = session.flags("tiny_transformer", __doc__, batch=64, rates={"adamw": 3e-3, "rmsprop": 3e-3})
    parser.add_argument("--task", choices=["cumsum", "sort"], default="cumsum")
    o = session.read(parser, argv)
    digits = data.sequences(o.task, o.seed)
    model = TinyTransformer(width=16 if o.small else 64).to(o.device)
    optimizer = session.optimizer_of(o, model)
    log = gradlog.attach(optimizer, o.out, model=model, **session.recording(o, digits, options))
    for step in session.steps(o, model, optimizer, log):
        x, y = (t.to(o.device) for t in digits.batch(0 if o.fixed_batch else step, o.batch))
        loss = cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.annotate(loss=loss.item(), batch_size=len(x))


if __name__ == "__main__":
    main()
