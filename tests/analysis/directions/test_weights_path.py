"""The path of the weights against the weights themselves."""

from __future__ import annotations

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run, weights_path
from gradlog.errors import TooFewStepsError
from tests.helpers import stores


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("k", [64, "exact"])
def test_updates_add_up_to_where_the_weights_are(tmp_path, optimizer, k):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    chosen = getattr(torch.optim, optimizer)(model.parameters(), lr=0.02)

    def place():
        return np.concatenate([p.detach().numpy().ravel().copy() for p in model.parameters()])

    places = [place()]
    with gradlog.attach(chosen, tmp_path / "run.zarr", model=model, k=k, what="update", on_error="raise"):
        for _ in range(60):
            chosen.zero_grad()
            model(torch.randn(16, 8)).square().mean().backward()
            chosen.step()
            places.append(place())
    found = weights_path(open_run(tmp_path / "run.zarr"))
    assert found.source == "updates"
    assert found.steps.tolist() == list(range(61))
    truth = np.linalg.norm(np.array(places) - places[0], axis=1)
    lengths = np.linalg.norm(np.diff(places, axis=0), axis=1).sum()
    if k == "exact":
        np.testing.assert_allclose(found.distance, truth, rtol=1e-4, atol=1e-6)
        assert found.length[-1] == pytest.approx(lengths, rel=1e-4)
        assert found.efficiency == pytest.approx(truth[-1] / lengths, rel=1e-3)
    else:
        assert found.low[-1] <= truth[-1] <= found.high[-1]
        assert found.length[-1] == pytest.approx(lengths, rel=0.2)


def test_snapshots_tell_the_distance_between_them(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Linear(30, 30)
    chosen = torch.optim.SGD(model.parameters(), lr=0.5)
    before = np.concatenate([p.detach().numpy().ravel().copy() for p in model.parameters()])
    with gradlog.attach(chosen, tmp_path / "run.zarr", model=model, k=64, on_error="raise"):
        for _ in range(30):
            chosen.zero_grad()
            model(torch.randn(16, 30)).square().mean().backward()
            chosen.step()
    after = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    found = weights_path(open_run(tmp_path / "run.zarr"))
    assert found.source == "snapshots"
    assert found.steps[[0, -1]].tolist() == [0, 30]
    assert found.low[-1] <= np.linalg.norm(after - before) <= found.high[-1]
    assert found.length[-1] >= found.distance[-1] * (1 - 1e-9)


def test_intervals_hold_the_distance(tmp_path):
    held = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        drift = rng.normal(size=(1, 1, 48)) + rng.normal(size=(20, 1, 48))
        path = stores.write_run(tmp_path / f"{seed}", drift, what="update", sizes=[48 * 50])
        found = weights_path(open_run(path))
        truth = np.sqrt(48 * (20**2 + 20))  # in the mean over draws of these coordinates
        held.append(found.low[-1] <= truth <= found.high[-1])
    assert np.mean(held) >= 0.9


def test_what_has_no_path_is_refused(tmp_path):
    rows = np.random.default_rng(0).normal(size=(20, 1, 8))
    with pytest.raises(TooFewStepsError, match="two snapshots"):
        weights_path(open_run(stores.write_run(tmp_path / "a.zarr", rows)))
    steps = np.arange(20) + 5 * (np.arange(20) > 9)
    with pytest.raises(TooFewStepsError, match="gaps"):
        weights_path(open_run(stores.write_run(tmp_path / "b.zarr", rows, what="update", steps=steps)))


def test_one_coordinate_shows_no_error(tmp_path):
    rows = np.random.default_rng(0).normal(size=(10, 1, 1))
    sketched = weights_path(open_run(stores.write_run(tmp_path / "sketched.zarr", rows, what="update")))
    assert np.isnan(sketched.low).all()
    assert np.isnan(sketched.high).all()
    exact = weights_path(open_run(stores.write_run(tmp_path / "exact.zarr", rows, what="update", exact=True)))
    np.testing.assert_array_equal(exact.low, exact.distance)
