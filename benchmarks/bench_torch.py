"""What recording costs a training step, beside what per-tensor histograms of the gradients would cost.

    python benchmarks/bench_torch.py [resnet] [gpt2] [--steps N] [--threads N]

Every second step is recorded (``every=2``), so that recorded and plain steps alternate in one run and a busy
machine slows both. Printed per model: seconds of a plain step; the recorder's share by its own clock, hooks, sketch,
journal and buffer included; the share of processor time between hooks that stand before and behind the recorder's,
which a busy machine does not blur (N threads shorten a step N times at most and the recorder not at all: its share of
the wall time is N times this one at most); the difference of neighbouring steps, flush thread included; and those of
``torch.histc`` on every gradient tensor (as wandb.watch does) and of TensorBoard's ``add_histogram`` where it
is installed, timed on the gradients of the last step.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torch
from torch import nn

import gradlog

STEPS = int(os.environ.get("GRADLOG_BENCH_TRAINING", "8"))

WIDTHS = [
    (64, 64, 1),
    (64, 64, 1),
    (64, 128, 2),
    (128, 128, 1),
    (128, 256, 2),
    (256, 256, 1),
    (256, 512, 2),
    (512, 512, 1),
]


class Block(nn.Module):
    """Basic residual block."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        same = stride == 1 and a == b
        self.skip = nn.Identity() if same else nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.skip(x))


def resnet18() -> tuple[nn.Module, Callable[[nn.Module], torch.Tensor]]:
    """ResNet-18 with a CIFAR stem, batch 32."""
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 100)]
    model = nn.Sequential(*stem, *(Block(*w) for w in WIDTHS), *head)
    x, y = torch.randn(32, 3, 32, 32), torch.randint(100, (32,))
    return model, lambda m: nn.functional.cross_entropy(m(x), y)


class Gpt2(nn.Module):
    """124 million parameters: 12 layers of 768, vocabulary 50,257, head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(50257, 768), nn.Embedding(1024, 768)
        layer = nn.TransformerEncoderLayer(768, 12, 3072, 0.0, "gelu", batch_first=True, norm_first=True)
        self.h = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(768)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        hidden = self.h(self.token(x) + self.place(torch.arange(x.shape[1])), mask=mask, is_causal=True)
        return self.norm(hidden) @ self.token.weight.T


def gpt2() -> tuple[nn.Module, Callable[[nn.Module], torch.Tensor]]:
    """GPT-2 from scratch, batch 2 x 256 tokens."""
    x = torch.randint(50257, (2, 257))
    return Gpt2(), lambda m: nn.functional.cross_entropy(m(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


def histc(model: nn.Module) -> None:
    """Histogram of every gradient, as wandb.watch computes it."""
    for p in model.parameters():
        g = p.grad.flatten()
        low, high = g.min().item(), g.max().item()
        torch.histc(g, 64, min=low, max=high).tolist()


def tensorboard(folder: str) -> Callable[[nn.Module], None] | None:
    """Histograms written to TensorBoard, where it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    writer = SummaryWriter(folder)

    def add(model: nn.Module) -> None:
        for name, p in model.named_parameters():
            writer.add_histogram(name, p.grad, 0)

    return add


def sixteen(model: nn.Module) -> Callable[[str], str]:
    """Groups: sixteen bundles of neighbouring modules."""
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in model.named_parameters()))
    return lambda name: f"{16 * modules.index(name.rpartition('.')[0]) // len(modules):02d}"


def timed(f: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def resident() -> int:
    """Memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(name: str, build: Any, steps: int) -> dict[str, float]:
    """Train, print the shares and return them."""
    torch.manual_seed(0)
    model, loss_of = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    size = 4 * sum(p.numel() for p in model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    with tempfile.TemporaryDirectory() as folder:
        board = tensorboard(folder + "/board")
        for _ in range(5):
            step()
        before = resident()
        marks: list[float] = []
        hooks = [optimizer.register_step_pre_hook(lambda *a: marks.append(time.thread_time()))]
        log = gradlog.attach(
            optimizer, folder + "/run.zarr", model=model, every=2, on_error="raise", groups=sixteen(model)
        )
        # by the class: those of an attached optimizer go before the recorder's own
        hooks.append(
            torch.optim.Optimizer.register_step_pre_hook(optimizer, lambda *a: marks.append(time.thread_time()))
        )
        optimizer.step()
        optimizer.step()
        memory = resident() - before
        recorded, plain, own, hist, tb, work, busy = [], [], [], [], [], [], []
        for _ in range(steps):
            spent = log.seconds
            marks.clear()
            recorded.append(timed(step))
            own.append(log.seconds - spent)
            work.append(marks[1] - marks[0])
            start = time.process_time()
            plain.append(timed(step))
            busy.append(time.process_time() - start)
        for _ in range(min(steps, 8)):  # afterwards: a step that follows them finds its caches and allocators disturbed
            hist.append(timed(lambda: histc(model)))
            if board:
                tb.append(timed(lambda: board(model)))
        groups = len(log.header.groups)
        log.close()
    base = statistics.median(plain)

    def share(seconds: list[float], of: float = base) -> str:
        return f"{100 * statistics.median(seconds) / of:6.2f} %" if seconds else "not installed"

    print(f"{name}: {size // 4:,} parameters, {groups} groups, step {base:.3f} s, {torch.get_num_threads()} threads, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    print(f"  recorder, own clock      {share(own)}")
    print(f"  recorder, processor time {share(work, statistics.median(busy))}")
    print(f"  recorder, difference     {share([r - p for r, p in zip(recorded, plain, strict=True)])}")
    print(f"  torch.histc every tensor {share(hist)}")
    print(f"  tensorboard histograms   {share(tb)}")
    print(f"  memory of the recorder   +{memory / 2**20:.1f} MiB; parameters are {size / 2**20:.1f} MiB")
    figures = {"share": statistics.median(work) / statistics.median(busy), "step_seconds": base}
    figures |= {"share_by_own_clock": statistics.median(own) / base, "histc_share": statistics.median(hist) / base}
    figures["peer_x_histc"] = statistics.median(hist) / statistics.median(own)
    figures |= {"peer_x_tensorboard": statistics.median(tb) / statistics.median(own)} if tb else {}
    return figures | {"memory_mb": memory / 2**20}


@pytest.mark.parametrize("name", ["resnet", "gpt2"])
def test_share_of_a_step(benchmark: Any, name: str) -> None:
    """Processor time of the hooks over that of a plain step, and histograms of the same gradients; one thread."""
    if name == "gpt2" and STEPS < 8:
        pytest.skip("takes minutes: in full mode only, GRADLOG_BENCH_TRAINING=8 or more")
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info |= measure(name, {"resnet": resnet18, "gpt2": gpt2}[name], STEPS)


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description="Recorder overhead of a torch training step.")
    parser.add_argument("models", nargs="*", default=["resnet"], help="resnet, gpt2")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.models:
        measure(name, {"resnet": resnet18, "gpt2": gpt2}[name], options.steps)


if __name__ == "__main__":
    main()
