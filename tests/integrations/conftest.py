"""What every framework's test does: compare a recorded run with gradients that were captured some other way."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradlog.analysis
from gradlog.sketching.fold_hash import FoldHash

ROOT = Path(__file__).resolve().parents[2]

TRAIN = """
import sys, os, signal, warnings
import numpy as np
import torch
from torch import nn
torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(5, 7)
        self.head = nn.Linear(7, 2)
    def forward(self, x):
        return self.head(self.body(x).tanh())

def main(mode):
    net, other = Net(), nn.Linear(3, 3)
    wrapper = nn.ModuleDict({"net": net, "other": other})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    second = torch.optim.Adam(other.parameters())
    seen = []
    for t in range(4):
        optimizer.zero_grad()
        net(torch.randn(4, 5)).square().mean().backward()
        seen.append(np.concatenate([p.grad.numpy().ravel() for p in net.parameters()]))
        optimizer.step()
        if mode == "two":
            other(torch.randn(2, 3)).sum().backward()
            second.step()
        if t == 2 and mode == "raise":
            raise ValueError("the script's own fault")
        if t == 2 and mode == "sigint":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
            os.kill(os.getpid(), signal.SIGINT)
        if t == 2 and mode in ("sigterm", "sigkill"):
            os.kill(os.getpid(), getattr(signal, mode.upper()))
    np.save("seen.npy", np.stack(seen))
    print("done", __name__, sys.argv[1:])
    sys.exit(5 if mode == "exit" else None)

if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
"""


class Recorded:
    """A finished run, read back."""

    def __init__(self, path: Path) -> None:
        self.run = gradlog.analysis.open_run(str(path))
        self.header = self.run.header
        self.steps = self.run.steps.tolist()
        self.flags = self.run.flags.tolist()
        self.sketch = self.run.sketch.compute()
        self.norm2 = self.run.group_norm2
        self.scalars = self.run.scalar_columns

    def expect(self, gradients: Sequence[Mapping[str, np.ndarray]], rtol: float = 2e-5, norms: bool = True) -> None:
        """Rows must be the sketches and norms of these gradients, in this order."""
        assert len(self.steps) == len(gradients)
        S = FoldHash(self.header.sketch.k, self.header.sketch.seed)
        assert sorted(gradients[0]) == sorted(t.name for t in self.header.tensors)
        for i, named in enumerate(gradients):
            sketch = np.zeros(self.sketch.shape[1:])
            norm2 = np.zeros(len(self.header.groups))
            for t in self.header.tensors:
                g = np.asarray(named[t.name]).reshape(-1)
                g = g.view(g.real.dtype) if np.iscomplexobj(g) else g
                sketch[t.group] += S.sketch(g, t.name)
                norm2[t.group] += np.square(g.astype(np.float64)).sum()
            scale = np.sqrt(norm2.max())
            np.testing.assert_allclose(self.sketch[i], sketch, rtol=rtol, atol=rtol * scale)
            if norms:
                np.testing.assert_allclose(self.norm2[i], norm2, rtol=rtol, atol=(rtol * scale) ** 2)


@pytest.fixture
def recorded() -> Callable[[Any], Recorded]:
    return Recorded


@pytest.fixture
def seeded() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)


@pytest.fixture
def nobody_else_trains() -> None:
    """Take the gradients of optimizers that other tests left alive: ``gradlog run`` would wait for their steps."""
    torch = pytest.importorskip("torch")
    gc.collect()
    for one in gc.get_objects():
        if issubclass(type(one), torch.optim.Optimizer) and hasattr(one, "param_groups"):
            one.zero_grad()


@pytest.fixture(params=[False, True], ids=["cpu path", "device path"])
def any_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once through numpy on the zero-copy views, once through the twin for tensors of a device."""
    from gradlog.integrations.torch.sketching import sketchers

    monkeypatch.setattr(sketchers, "_FORCE_DEVICE", request.param)


@pytest.fixture
def gradlog_run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Record ``train.py`` as from a shell."""
    (tmp_path / "train.py").write_text(TRAIN)

    def call(*args: object) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("gradlog"), "run", *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    return call
