"""The map of directions against the full gradients, with noise of known size, and without any signal."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gradlog.analysis import direction_map, open_run
from gradlog.analysis.report.figures.direction_map import direction_map_of_two
from gradlog.analysis.report.study import study
from gradlog.errors import SpecMismatchError, TooFewStepsError
from tests.helpers import stores


def turning(rng, steps, dims, noise, angle=0.5 * np.pi):
    """Gradients whose mean turns by an angle half-way, and noise of a size relative to it."""
    u, v = np.linalg.qr(rng.normal(size=(dims, 2)))[0].T
    means = np.where((np.arange(steps) < steps // 2)[:, None], u, np.cos(angle) * u + np.sin(angle) * v)
    return means + noise / np.sqrt(dims) * rng.normal(size=(steps, dims))


def run_of(path, rows, groups=1, **more):
    return open_run(stores.write_run(path, rows.reshape(len(rows), groups, -1), **more))


def test_without_noise_it_is_the_cosine_of_the_means(tmp_path):
    rows = np.random.default_rng(0).normal(size=(1, 2, 8)).repeat(64, 0) * np.linspace(1, 2, 64)[:, None, None]
    rows[32:, 1] *= -1
    found = direction_map(open_run(stores.write_run(tmp_path / "run.zarr", rows, exact=True)), rows=16)
    a, b = rows[0].ravel(), rows[-1].ravel()
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.first.tolist() == [0, 16, 32, 48]
    assert found.last.tolist() == [15, 31, 47, 63]
    np.testing.assert_allclose(found.cosine[0], [1, 1, expected, expected], atol=0.02)
    assert found.known.all()
    assert repr(found) == "<gradlog.analysis.DirectionMap: 4 x 4 stretches>"


def test_its_intervals_hold_the_truth(tmp_path):
    """Noise eight times the mean, of which a stretch leaves an eighth: the plain cosine of means is far too low."""
    angle, held, plain = np.pi / 3, [], []
    for seed in range(40):
        rows = turning(np.random.default_rng(seed), 128, 256, noise=8.0, angle=angle)
        found = direction_map(run_of(tmp_path / f"{seed}.zarr", rows), rows=64)
        if found.known.all():
            held.append(found.low[0, 1] <= np.cos(angle) <= found.high[0, 1])
        a, b = rows[:64].mean(0), rows[64:].mean(0)
        plain.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert len(held) >= 20
    assert np.mean(held) >= 0.85
    assert np.mean(plain) < 0.35  # and not 0.5


def test_noise_alone_has_no_direction(tmp_path):
    known = []
    for seed in range(20):
        rows = np.random.default_rng(seed).normal(size=(160, 2, 64))
        known.append(direction_map(open_run(stores.write_run(tmp_path / f"{seed}.zarr", rows)), rows=16).known)
    assert np.mean(known) < 0.08


def test_one_group_is_as_if_it_were_alone(tmp_path):
    rng = np.random.default_rng(1)
    rows = np.stack([turning(rng, 64, 32, 0.5), turning(rng, 64, 32, 0.5)], axis=1)
    both = direction_map(open_run(stores.write_run(tmp_path / "both.zarr", rows)), rows=16, group="g1")
    alone = direction_map(open_run(stores.write_run(tmp_path / "alone.zarr", rows[:, 1:])), rows=16)
    np.testing.assert_allclose(both.cosine, alone.cosine)
    np.testing.assert_allclose(both.low, alone.low)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_gradients_of_any_size_have_directions(tmp_path, size):
    """Their squares do not fit float32."""
    rows = turning(np.random.default_rng(2), 64, 32, 0.1).astype(np.float32)
    usual = direction_map(run_of(tmp_path / "usual.zarr", rows), rows=16)
    found = direction_map(run_of(tmp_path / "extreme.zarr", rows * np.float32(size)), rows=16)
    assert found.known.all()
    np.testing.assert_allclose(found.cosine, usual.cosine, atol=1e-5)
    np.testing.assert_allclose(found.low, usual.low, atol=1e-5)


def test_rows_with_nan_are_left_out(tmp_path):
    rows = turning(np.random.default_rng(2), 64, 32, 0.1)[:, None]
    rows[20] = np.nan
    flags = np.where(np.arange(64) == 20, 1, 0)
    found = direction_map(open_run(stores.write_run(tmp_path / "run.zarr", rows, flags=flags)), rows=16)
    assert found.known.all()
    assert found.cosine[0, 1] == pytest.approx(1, abs=0.05)


def test_a_stretch_of_nothing_is_not_known(tmp_path):
    rows = turning(np.random.default_rng(3), 64, 32, 0.1)[:, None]
    rows[16:32] = np.nan
    flags = np.where((np.arange(64) >= 16) & (np.arange(64) < 32), 1, 0)
    found = direction_map(open_run(stores.write_run(tmp_path / "run.zarr", rows, flags=flags)), rows=16)
    assert found.known.tolist() == [True, False, True, True]


def test_it_does_not_depend_on_the_chunks(tmp_path):
    rows = turning(np.random.default_rng(4), 100, 32, 1.0)[:, None]
    a, b = (direction_map(open_run(stores.write_run(tmp_path / f"{c}", rows, chunk=c)), rows=20) for c in (8, 64))
    np.testing.assert_allclose(a.cosine, b.cosine, rtol=1e-9)
    np.testing.assert_allclose(a.low, b.low, rtol=1e-9)


def test_what_cannot_be_mapped_is_refused(tmp_path):
    run = run_of(tmp_path / "run.zarr", np.random.default_rng(5).normal(size=(20, 32)))
    with pytest.raises(TooFewStepsError):
        direction_map(run)
    with pytest.raises(ValueError, match="stretches of 4 rows"):
        direction_map(run, rows=2)
    with pytest.raises(ValueError, match="g0"):
        direction_map(run, rows=8, group="head")


def test_a_view_that_goes_back_has_no_map(tmp_path):
    """A stretch over the rewind would hold rows of both branches, and begin after it ends."""
    path = stores.write_rewound(tmp_path / "run.zarr", np.random.default_rng(6).normal(size=(90, 1, 32)), 50, back=20)
    assert (direction_map(open_run(path), rows=16).first <= direction_map(open_run(path), rows=16).last).all()
    both = open_run(path, view="all")
    with pytest.raises(ValueError, match="view='latest'"):
        direction_map(both, rows=16)
    measured, latest = (study(run, "run", cache=False).document["directions"] for run in (both, open_run(path)))
    assert measured == {"withheld": "expected steps in order, got a view that goes back; open it with view='latest'"}
    assert "map" in latest


def test_between_runs_it_is_that_of_one_run_of_both(tmp_path):
    """Two runs one after the other are one run, of which the map of both is a part."""
    rng = np.random.default_rng(7)
    rows = np.concatenate([turning(rng, 64, 32, 1.0), turning(rng, 80, 32, 1.0)])[:, None]
    a, b, both = (stores.write_run(tmp_path / n, x) for n, x in (("a", rows[:64]), ("b", rows[64:]), ("both", rows)))
    found = direction_map(open_run(a), rows=16, other=open_run(b))
    whole = direction_map(open_run(both), rows=16)
    assert found.cosine.shape == (4, 5)
    for name in ("cosine", "low", "high"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name)[:4, 4:])
    assert (found.other_first.tolist(), found.other_last.tolist()) == ([0, 16, 32, 48, 64], [15, 31, 47, 63, 79])


def test_runs_of_other_maps_or_groups_are_refused(tmp_path):
    rows = turning(np.random.default_rng(8), 64, 32, 1.0)
    plain, exact = run_of(tmp_path / "a", rows), run_of(tmp_path / "b", rows, exact=True)
    halved = open_run(stores.write_run(tmp_path / "c", rows.reshape(64, 2, 16)))
    for other, what in ((exact, "kind"), (halved, "k")):
        with pytest.raises(SpecMismatchError, match=f"differ in their {what}"):
            direction_map(plain, rows=16, other=other)
    studies = [
        SimpleNamespace(run=run, label=label, result={"direction_cosine"})
        for run, label in ((plain, "a"), (exact, "b"))
    ]
    assert direction_map_of_two(studies) == []
    (figure,) = direction_map_of_two([studies[0], studies[0]])
    assert figure.title == "Do both go the same way?\na and a"
