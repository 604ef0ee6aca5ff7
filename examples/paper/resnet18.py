"""ResNet-18 with the stem for 32 x 32 images (He et al. 2016), 11.2 million parameters, 100 classes.

python -m examples.paper.resnet18 --optimizer adamw --out runs/resnet18.zarr
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu

import gradlog
from examples.paper import data, session


class Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Stem, four stages of two blocks, mean over places, linear head."""

    def __init__(self, width: int = 64, classes: int = 100) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        widths = [width << stage for stage in range(4)]
        before = [width, *widths]
        for i, w in enumerate(widths):
            self.add_module(f"stage{i + 1}", nn.Sequential(Block(before[i], w, 1 if i == 0 else 2), Block(w, w, 1)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        return self.head(x.mean(dim=(2, 3)))


def main(argv: list[str] | None = None, **options: Any) -> None:
    """Train; ``options`` go to ``gradlog.attach``."""
    parser = session.flags("resnet18", __doc__, batch=32, rates={"adamw": 1e-3, "sgdmom": 0.05})
    o = session.read(parser, argv)
    images = data.images(o.data, o.seed, 1000 if o.small else None)
    model = ResNet18(width=8 if o.small else 64).to(o.device)
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
