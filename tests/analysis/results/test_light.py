"""Windows without Grams of their own: the same numbers for less memory, but for wider intervals on rank."""

from __future__ import annotations

import numpy as np
import pytest

from gradlog.analysis import analyze, open_run
from gradlog.analysis.results.options import Options
from gradlog.analysis.results.plan import plan
from tests.helpers import stores

LIGHT = {"window": 20, "prefixes": 2, "burn_in": 3, "light": True}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Rows of a few slow directions and noise, 3 groups x 120 coordinates, a gap in step 60."""
    rng = np.random.default_rng(0)
    slow = np.sin(np.arange(90)[:, None] / 9 + np.arange(6)) @ rng.standard_normal((6, 360))
    rows = (slow + 0.1 * rng.standard_normal((90, 360))).reshape(90, 3, 120)
    steps = np.r_[:60, 61:91]
    return str(stores.write_run(tmp_path_factory.mktemp("light") / "r.zarr", rows.astype(np.float32), steps=steps))


@pytest.mark.parametrize("svd", ["gram", "nystrom", "rows"])
def test_the_same_numbers_but_for_ranks_of_windows(path, svd):
    full, light = (analyze(path, svd=svd, **LIGHT | {"light": light}) for light in (False, True))
    lean = {name for name in full if name not in light}
    assert all(name.startswith(("window_group_", "prefix_group_")) for name in lean)
    assert set(light) < set(full)
    ranks = ("rank", "singular", "tail", "overlap", "participation", "entropy", "stable", "gain_chance")
    for name in light:
        if not (name.startswith(("window_", "prefix_")) and any(word in str(name) for word in ranks)):
            atol = 1e-4 * float(abs(full[name]).max())  # of singular values that are rounding of float32 products
            np.testing.assert_allclose(light[name], full[name], rtol=1e-5, atol=atol, err_msg=name)
    for scope in ("window", "prefix"):
        exact = full[f"{scope}_rank"] if svd != "nystrom" else analyze(path, svd="gram", **LIGHT)[f"{scope}_rank"]
        assert (light[f"{scope}_rank_low"] <= exact).all()
        assert ((light[f"{scope}_rank_high"] >= exact) | light[f"{scope}_rank_high"].isnull()).all()
    assert light.attrs["svd_method"] == full.attrs["svd_method"]


def test_without_windows_there_is_nothing_to_save(path):
    light, full = (analyze(path, burn_in=3, light=light) for light in (True, False))
    assert light.attrs["bytes_read"] == full.attrs["bytes_read"]
    assert light.drop_attrs().identical(full.drop_attrs())


def test_without_grams_one_pass_does(path):
    found = analyze(path, svd="nystrom", by_group=False, passes=1, **LIGHT)
    assert found.attrs["bytes_read"] == 2 * 4 * 360 * 90  # the Gram of the groups' sum is the run's alone
    assert "window_group_path_share" not in found


def test_less_memory_is_predicted(path):
    wide = {"svd": "nystrom", "window": 4, "memory": "100G"}
    light, full = (plan(open_run(path), Options.of(light=light, **wide)).predicted for light in (True, False))
    assert light < full
