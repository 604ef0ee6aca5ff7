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

WORK = np.ones((400, 400), np.float32)


@pytest.mark.parametrize("groups", [1, 62])
def test_row_outside_the_sketch(benchmark: Any, tmp_path: Path, groups: int) -> None:
    """Journal on, chunks flushed beside a loop that computes for a millisecond or two a step, as training does.

    The same loop without a logger tells how much of the slowest percent is the machine's own.
    """
    grads = {f"w{i}": np.ones(10, np.float32) for i in range(groups)}
    log = gradlog.open(tmp_path / "r.zarr", like=grads, groups="tensors", on_error="raise")
    assert log.header is not None
    from gradlog.sketching.projector import projector

    sketch = projector(log.header.sketch, log.header.tensors, groups)
    out, norm2 = np.empty((groups, 256), np.float32), np.empty(groups)
    arrays = list(grads.values())
    alone, times = [], []
    for _ in range(3000):
        a = time.perf_counter()
        WORK @ WORK
        b = time.perf_counter()
        log.step(grads, loss=1.0)
        c = time.perf_counter()
        sketch.project(arrays, out, norm2)
        d = time.perf_counter()
        alone.append(b - a)
        times.append((c - b, d - c))
    step, sketched = np.array(times).T * 1e6
    benchmark.pedantic(log.step, (grads,), {"loss": 1.0}, rounds=100)
    log.close()
    outside = np.median(step - sketched)
    tail = (np.percentile(step, 99) - np.median(sketched)) / 1e3
    floor = (np.percentile(alone, 99) - np.median(alone)) * 1e3
    benchmark.extra_info |= {"outside_us": outside, "p99_ms": tail, "machine_p99_ms": floor}
    print(
        f"\n{groups} groups: {outside:.0f} us a step beside the sketch ({np.median(sketched):.0f} us), slowest percent "
        f"{tail:.2f} ms; the loop's own work varies by {floor:.2f} ms at its slowest percent"
    )


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
