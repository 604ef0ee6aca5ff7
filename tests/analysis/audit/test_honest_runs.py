"""False alarms: two hundred honest runs of every unpleasant kind, and the shipped ones. No FAIL."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import audit_run

SAMPLES = Path(__file__).resolve().parents[3] / "sample_logs"


def spread(rng, d, t):
    return rng.standard_normal(d)


def smooth(rng, d, t):
    return np.sin(np.arange(d) * 0.1 + t / 40) + 0.05 * rng.standard_normal(d)


def heavy(rng, d, t):
    return rng.standard_t(1.2, d)


def extreme(rng, d, t):
    return np.exp(4 * rng.standard_normal(d)) * rng.choice([-1, 1], d)


def sparse(rng, d, t):
    x = np.zeros(d)
    x[rng.choice(d, min(d, 3), replace=False)] = rng.choice([-1.0, 1.0], min(d, 3))
    return x


def pair(rng, d, t):
    """Two coordinates of opposite sign carry nearly everything, as the bias of a two-class head does."""
    x = 0.01 * rng.standard_normal(d)
    x[0], x[-1] = (s := rng.standard_normal() * d), -s
    return x


def embedding(rng, d, t):
    x = np.zeros((max(1, d // 16), 16))
    for token in rng.zipf(1.4, 12):
        x[min(token, len(x)) - 1] += rng.standard_normal(16)
    return np.resize(x, d) if d < 16 else np.concatenate([x.ravel(), np.zeros(d - x.size)])


def frozen(rng, d, t):
    return np.zeros(d)


def late(rng, d, t):
    return rng.standard_normal(d) if t > 20 else np.zeros(d)


def outliers(rng, d, t):
    """A few columns a hundred times larger than the others, always the same."""
    return rng.standard_normal(d) * np.where(np.arange(d) % max(2, d // 4) == 1, 100, 1)


def shrinking(rng, d, t):
    return rng.standard_normal(d) * 10.0 ** (-t / 4)


KINDS = (spread, smooth, heavy, extreme, sparse, pair, embedding, frozen, late, outliers, shrinking)


def record(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 6))
    sizes = {f"g{i}.w": int(rng.choice([1, 2, 3, 10, 100, 700, 5000])) for i in range(count)}
    kinds = [KINDS[i] for i in rng.integers(len(KINDS), size=count)]
    options = {
        "k": int(rng.choice([8, 16, 64, 256])),
        "seed": int(rng.integers(1000)),
        "chunk": 16,
        "every": int(rng.choice([1, 1, 1, 3])),
        "groups": str(rng.choice(["tensors", "all"])),
        "sketch_bits": int(rng.choice([23, 23, 12])),
        "like": {n: np.zeros(d) for n, d in sizes.items()},
    }
    steps = int(rng.integers(2, 60))
    for first in (0, steps // 2) if rng.random() < 0.3 else (0,):
        with gradlog.open(path, mode="a", first_step=first, journal=False, on_error="raise", **options) as log:
            for t in range(first, first + steps):
                row = {n: kind(rng, d, t) for (n, d), kind in zip(sizes.items(), kinds, strict=True)}
                if rng.random() < 0.01:
                    row[next(iter(row))][0] = np.nan
                if rng.random() < 0.02:
                    row[list(row)[-1]] = None if count > 1 else row[list(row)[-1]]
                log.step(row, loss=float(rng.random()), lr=0.1 / (1 + t))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_no_honest_run_fails(tmp_path: Path, block: int) -> None:
    warned = 0
    for seed in range(20 * block, 20 * block + 20):
        record(tmp_path / f"{seed}.zarr", seed)
        report = audit_run(tmp_path / f"{seed}.zarr")
        assert not report.failed, (seed, [x.text for x in report.lines if x.status == "FAIL"])
        warned += any(x.status == "WARN" for x in report.lines if x.check == "norms")
    assert warned <= 6


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.zarr")), ids=lambda p: p.stem)
def test_the_sample_runs_pass_without_a_warning_on_their_content(path: Path) -> None:
    report = audit_run(path)
    odd = [(x.check, x.text) for x in report.lines if x.status in ("FAIL", "WARN") and x.check != "provenance"]
    assert odd == []
