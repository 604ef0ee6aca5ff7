"""What an analysis will do is known, and can be checked, before a row of the sketch is read."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest

from gradlog.analysis import analyze, open_run
from gradlog.analysis.common.types import EPS
from gradlog.analysis.reading.rows import heard
from gradlog.analysis.results.options import Keywords, Options
from gradlog.analysis.results.plan import Range, plan
from gradlog.errors import TooFewStepsError
from tests.helpers import stores


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """90 rows of 2 groups x 40 coordinates, a gap before step 61."""
    rows = np.random.default_rng(0).standard_normal((90, 2, 40), np.float32)
    path = tmp_path_factory.mktemp("plan") / "r.zarr"
    return open_run(stores.write_run(path, rows, steps=np.r_[:60, 61:91]))


def planned(run, **asked):
    return plan(run, Options.of(**asked))


def test_no_row_is_read(run):
    read = []
    with heard(lambda *x: read.append(x)):
        planned(run, window=20, prefixes=2, light=True)
    assert read == []


def test_ranges_and_cuts(run):
    found = planned(run, window=40, stride=20, prefixes=2, burn_in=10)
    assert found.whole == Range(10, 90)
    assert found.ranges["window"] == [Range(10, 50), Range(30, 70), Range(50, 90)]
    assert found.ranges["prefix"] == [Range(10, 50), Range(10, 90)]
    assert found.cuts == [0, 10, 30, 50, 70, 90]
    assert planned(run, prefixes=10**30).ranges["prefix"] == [Range(0, end) for end in range(2, 91)]


@pytest.mark.parametrize("svd", ["gram", "rows", "nystrom"])
def test_one_pass_collects_what_the_route_needs(run, svd):
    found = planned(run, svd=svd, window=30)
    assert found.route.method == svd
    assert [recipe for recipe, _ in found.passes] == [found.recipe]
    assert (found.recipe.test is not None) == (svd == "nystrom")
    assert found.recipe.gram == ("full" if svd == "gram" else "groups")
    assert planned(run, svd=svd, by_group=False).recipe.gram == ("full" if svd == "gram" else "none")


def test_light_windows_have_a_pass_of_the_whole_run_for_grams(run):
    found = planned(run, window=30, light=True, burn_in=10)
    (grams, whole), (small, cuts) = found.passes
    assert (grams.gram, grams.columns, whole) == ("full", False, [0, 10, 90])
    assert (small.gram, small.columns, cuts) == ("none", True, [0, 10, 40, 70, 90])
    assert small.test is not None
    assert len(planned(run, light=True, burn_in=10).passes) == 1  # no window to be light about


def test_the_predicted_memory_grows_with_what_is_kept(run):
    few, many = (planned(run, window=window).predicted for window in (45, 5))
    assert few < many


def test_what_is_asked_wrongly_is_refused(run):
    for asked in ({"eps": ()}, {"eps": (0.1, 0.1)}, {"burn_in": -1}, {"window": 1}, {"svd": "qr"}, {"kernel": "c"}):
        with pytest.raises(ValueError, match=next(iter(asked))):
            planned(run, **asked)
    for asked in ({"window": 91}, {"burn_in": 89}):
        with pytest.raises(TooFewStepsError):
            planned(run, **asked)
    with pytest.raises(TypeError, match="windows"):
        planned(run, windows=3)


def test_keywords_of_analyze_are_the_fields_of_the_options():
    parts = [Options.of().scope, Options.of().spectra, Options.of().bounds, Options.of().compute]
    fields = [field.name for part in parts for field in dataclasses.fields(part)]
    assert len(fields) == len(set(fields))
    named = set(inspect.signature(analyze).parameters) - {"run", "predictors", "eps", "options"}
    assert named | Keywords.__annotations__.keys() == set(fields)
    assert Options.of().eps == EPS
    assert not [name for name in fields if f"{name} : " not in analyze.__doc__ and f"{name}, " not in analyze.__doc__
                and f", {name}" not in analyze.__doc__]  # fmt: skip
