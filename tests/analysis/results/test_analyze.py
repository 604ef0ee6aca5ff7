"""What goes in and what comes out: refusals that say what is wrong, JSON, and files that come back equal."""

from __future__ import annotations

import json

import pytest
import xarray as xr

from gradlog.analysis import analyze, to_json
from gradlog.analysis.measures.predictors import parse
from gradlog.errors import MemoryLimitError, TooFewStepsError
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
