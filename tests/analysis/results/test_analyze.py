"""What goes in and what comes out: refusals that say what is wrong, JSON, and files that come back equal."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from gradlog.analysis import analyze, open_run, to_json
from gradlog.analysis.measures.predictors import parse
from gradlog.errors import MemoryLimitError, TooFewStepsError
from gradlog.format.header import NONFINITE
from tests.helpers import stores
from tests.helpers.walks import smooth


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"predictors": "ema(1.5)"}, ValueError, r"0 <= beta < 1"),
        ({"predictors": "median"}, ValueError, "unknown predictor"),
        ({"predictors": ["last", "last"]}, ValueError, "once each"),
        ({"eps": ()}, ValueError, "eps must be"),
        ({"eps": (1.5,)}, ValueError, "eps must be"),
        ({"svd": "qr"}, ValueError, "svd must be"),
        ({"kernel": "cuda"}, ValueError, "kernel must be"),
        ({"window": 1}, ValueError, "window must be"),
        ({"window": 500}, TooFewStepsError, "no whole window"),
        ({"burn_in": 129}, TooFewStepsError, "after burn_in=129"),
        ({"memory": "10M"}, MemoryLimitError, "exceeds the limit"),
        ({"memory": "much"}, ValueError, "expected a size such as"),
    ],
)
def test_refusals_say_what_is_wrong(exact_run, arguments, error, match):
    with pytest.raises(error, match=match):
        analyze(str(exact_run[0]), **arguments)


def test_parse_splits_outside_parentheses():
    assert [p.name for p in parse("ema(0.5), ar(2),last")] == ["ema(0.5)", "ar(2)", "last"]


def test_json_follows_the_contract_and_has_no_nan(tmp_path):
    path = stores.write_run(tmp_path / "r.zarr", smooth(40, groups=1), chunk=8)
    ds = analyze(str(path), window=20)
    found = to_json(ds)
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert found["schema"] == "gradlog.analysis/1"
    assert set(found["kappa"]) == {"zero", "last", "ema(0.9)", "ema(0.99)", "trend", "ar(8)", "best-ema"}
    assert set(found["kappa"]["last"]) >= {"value", "low", "high", "null", "gain"}
    assert "beta" in found["kappa"]["best-ema"]
    assert set(found["rank"]) == {"0.1", "0.05", "0.01"}
    assert set(found["rank"]["0.1"]) >= {"value", "low", "high", "estimate", "estimate_low", "estimate_high"}
    assert found["rank"]["0.1"]["estimate"] is None
    assert set(found["rank_measures"]) >= {"stable", "participation", "entropy"}
    assert set(found["svd"]) >= {"method", "passes", "certificate"}
    assert len(found["windows"]) == 2
    assert set(found["by_group"]) == {"g0"}
    assert any("null" in w for w in found["warnings"])  # no loss, no learning rate were logged


@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_saves_and_comes_back_equal(exact_run, tmp_path, kind):
    ds = analyze(str(exact_run[0]), window=60, components=2)
    if kind == "nc":
        ds.to_netcdf(tmp_path / "a.nc")
        back = xr.load_dataset(tmp_path / "a.nc")
    else:
        ds.to_zarr(tmp_path / "a.zarr", consolidated=False)
        back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False).load()
    xr.testing.assert_identical(back, ds)
    assert to_json(back) == to_json(ds)


def test_a_single_group_has_the_numbers_of_the_run(tmp_path):
    """It is not measured again; the route by rows, which does measure it, gives the same."""
    run = open_run(stores.write_run(tmp_path / "r.zarr", smooth(60, groups=1), chunk=8))
    once, twice = (analyze(run, window=20, svd=svd, eps=[0.1]) for svd in ("gram", "rows"))
    measured = [name for name in once if str(name).startswith(("group_", "window_group_"))]
    assert {"group_kappa", "group_rank_estimate", "window_group_rank"} < set(measured)
    for name in measured:
        np.testing.assert_allclose(once[name], twice[name], rtol=1e-5, atol=1e-6, err_msg=name)
        whole = str(name).replace("group_", "", 1)
        if whole in once and "share" not in whole:
            np.testing.assert_array_equal(once[name].isel(group=0), once[whole], err_msg=name)


def test_windows_without_a_finite_row_and_losses_beyond_any_sum_are_measured_in_silence(tmp_path):
    rows = np.random.default_rng(0).normal(size=(48, 1, 16)).astype(np.float32)
    rows[16:24] = np.nan
    flags = np.where(np.isnan(rows[:, 0, 0]), NONFINITE, 0)
    scalars = {"loss": np.full(48, 1.7e308)}
    found = analyze(
        str(stores.write_run(tmp_path / "run.zarr", rows, flags=flags, scalars=scalars)), window=8, cache=False
    )
    assert np.isnan(found.window_kappa.sel(predictor="last")).values.tolist() == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]
