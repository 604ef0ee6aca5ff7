"""Turns of the direction: planted ones are found at their step, and none where there is none."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gradlog.analysis import analyze, open_run, turns
from gradlog.analysis.report.figures.direction_map import direction_map
from tests.helpers import stores

STEPS, K = 480, 32


def run_of(path, angles, seed, noise=1.5, groups=1):
    """Gradients whose mean has these angles, (steps, groups), in a plane of its own in each group."""
    rng = np.random.default_rng(seed)
    rows = noise / np.sqrt(K) * rng.normal(size=(STEPS, groups, K))
    for g in range(groups):
        u, v = np.linalg.qr(rng.normal(size=(K, 2)))[0].T
        rows[:, g] += np.cos(angles[:, g])[:, None] * u + np.sin(angles[:, g])[:, None] * v
    return open_run(stores.write_run(path, rows))


def stepwise(*at):
    return 0.5 * np.pi * sum((np.arange(STEPS) >= step).astype(float) for step in at)[:, None]


def test_planted_turns_are_found_at_their_step(tmp_path):
    for seed in range(4):
        found = turns(run_of(tmp_path / f"{seed}.zarr", stepwise(150, 330), seed))
        assert [t.step for t in found] == pytest.approx([150, 330], abs=8)
        for turn in found:
            assert turn.low < turn.cosine < turn.high < turn.usual - 0.15


@pytest.mark.parametrize("angle", [0.0, np.pi])
def test_a_mean_that_stays_or_turns_steadily_has_none(tmp_path, angle):
    steady = np.linspace(0, angle, STEPS)[:, None]
    assert [turns(run_of(tmp_path / f"{s}.zarr", steady, s)) for s in range(6)] == [[]] * 6


def test_each_group_has_its_own(tmp_path):
    both = np.hstack([stepwise(150), 0 * stepwise(150)])
    run = run_of(tmp_path / "run.zarr", both, 0, noise=0.7, groups=2)
    assert [t.step for t in turns(run, group="g0")] == pytest.approx([150], abs=8)
    assert turns(run, group="g1") == []


def test_nothing_is_said_of_noise_alone(tmp_path):
    rows = np.random.default_rng(0).normal(size=(STEPS, 1, K))
    assert turns(open_run(stores.write_run(tmp_path / "run.zarr", rows))) is None


def test_the_report_marks_it(tmp_path):
    run = run_of(tmp_path / "run.zarr", stepwise(150), 1, noise=0.7)
    (figure,) = direction_map([SimpleNamespace(label="run", result=analyze(run, ["last"], directions=True))])
    assert "Dotted: the direction turned at step 1" in figure.note
