"""ViT-Tiny for 32 x 32 images (Dosovitskiy et al. 2021): patches of 4, 192 wide, 12 layers, 3 heads, 5.4 million.

python -m examples.paper.vit_tiny --out runs/vit_tiny.zarr
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gradlog
from examples.paper import data, session


class ViT(nn.Module):
    """Patches, a class token, learned places, pre-norm encoder; the class token's output is classified."""

    def __init__(self, width: int = 192, layers: int = 12, heads: int = 3, patch: int = 4, classes: int = 100) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 1 + (32 // patch) ** 2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.place
        return self.head(self.encoder(x)[:, 0])


def main(argv: list[str] | None = None, **options: Any) -> None:
    """Train; ``options`` go to ``gradlog.attach``."""
    parser = session.flags("vit_tiny", __doc__, batch=32, rates={"adamw": 5e-4})
    o = session.read(parser, argv)
    images = data.images(o.data, o.seed, 1000 if o.small else None)
    model = (ViT(width=48, layers=2) if o.small else ViT()).to(o.device)
    optimizer = session.optimizer_of(o, model)
    log = gradlog.attach(optimizer, o.out, model=model, **session.recording(o, images, options))
    for step in session.steps(o, model, optimizer, log):
        x, y = (t.to(o.device) for t in images.batch(0 if o.fixed_batch else step, o.batch))
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.annotate(loss=loss.item(), batch_size=len(x))


if __name__ == "__main__":
    main()
