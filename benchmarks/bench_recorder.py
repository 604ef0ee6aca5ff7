"""What the recorder costs a training job: a row outside the sketch, and its share of a ResNet-18 step on the CPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradlog


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("groups", [1, 62])
def test_row_outside_the_sketch(benchmark: Any, tmp_path: Path, groups: int, journal: bool) -> None:
    grads = {f"w{i}": np.ones(10, np.float32) for i in range(groups)}
    log = gradlog.open(tmp_path / "r.zarr", like=grads, groups="tensors", journal=journal, on_error="raise")
    assert log.header is not None
    from gradlog.sketch import projector

    sketch = projector(log.header.sketch, log.header.tensors, groups)
    out, norm2 = np.empty((groups, 256), np.float32), np.empty(groups)
    arrays = list(grads.values())
    outside, whole = [], []
    for _ in range(4000):
        start = time.perf_counter()
        log.step(grads, loss=1.0)
        middle = time.perf_counter()
        sketch.project(arrays, out, norm2)
        whole.append(middle - start)
        outside.append(2 * middle - start - time.perf_counter())
    benchmark.pedantic(log.step, (grads,), {"loss": 1.0}, rounds=500)
    log.close()
    p50, p99 = np.median(outside) * 1e6, np.percentile(whole, 99) * 1e3
    benchmark.extra_info |= {"outside_us": p50, "p99_ms": p99}
    print(f"\n{groups} groups, journal {journal}: {p50:.0f} us outside the sketch, p99 of a step {p99:.2f} ms")


class Block(nn.Module):
    """Basic residual block."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip
        same = stride == 1 and inside == outside
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def resnet18() -> nn.Module:
    """CIFAR stem, 100 classes, 11.2 million parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for inside, outside, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [Block(inside, outside, stride), Block(outside, outside, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 100))


def test_share_of_a_resnet18_step(benchmark: Any, tmp_path: Path) -> None:
    model = resnet18()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    x, y = torch.randn(32, 3, 32, 32), torch.randint(0, 100, (32,))
    log = gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, on_error="raise")
    spent = []

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        before = log.seconds
        optimizer.step()
        spent.append(log.seconds - before)

    benchmark.pedantic(step, rounds=12, warmup_rounds=2)
    log.close()
    share = np.median(spent) / benchmark.stats.stats.median
    benchmark.extra_info["share"] = share
    print(f"\nResNet-18, batch 32: {100 * share:.2f} % of a {benchmark.stats.stats.median:.2f} s step")
