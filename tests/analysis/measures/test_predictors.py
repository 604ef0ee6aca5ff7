"""How predictors are asked for by name, and how a user adds one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import Cache, Linear, open_run, register_predictor
from gradlog.analysis.measures.predictors import parse, usual
from gradlog.analysis.measures.predictors.registry import fits_beta, is_reference, kinds
from gradlog.analysis.results.analyze import analyze_cached
from tests.helpers import known, stores
from tests.helpers.walks import smooth

PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto-own-predictor.md"
EVERY = [name for kind in kinds() for name in kind.usual]


def test_the_page_on_own_predictors_runs(tmp_path):
    for seed, name in enumerate(("adamw", "sgd")):
        stores.write_run(tmp_path / "runs" / f"{name}.zarr", smooth(60, groups=1, seed=seed), chunk=16)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mean of two" in done.stdout
    assert done.stdout.splitlines()[-1] == "('last', 'ema(0.9)', 'ema(0.99)', 'trend', 'mean(4)')"


@pytest.mark.parametrize("name", EVERY)
def test_a_registration_says_what_the_fit_does(name):
    (predictor,) = parse(name)
    assert predictor.name == name
    X = np.random.default_rng(0).standard_normal((40, 8))
    fitted = predictor.fit(known.evidence(X, [predictor]))
    (kind,) = [k for k in kinds() if name in k.usual]
    assert kind.hindsight == fitted.hindsight
    assert fits_beta(name) == (fitted.hindsight and fitted.beta is not None)
    assert is_reference(name) == (not fitted.weights.size and fitted.beta is None)


def test_tables_list_predictors_in_one_order():
    for shown_in in ("analyze", "report", "windows", "compare"):
        assert list(usual(shown_in)) == [name for name in EVERY if name in usual(shown_in)]


def test_a_name_with_a_parameter_makes_one_for_each_value():
    register_predictor("test-mean(N)", int)(lambda n: Linear(f"test-mean({n})", (1 / n,) * n))
    assert [len(p.weights) for p in parse("test-mean(2), test-mean( 5 )")] == [2, 5]
    for wrong in ("test-mean", "test-mean(2.5)", "test-mean()", "last(2)"):
        with pytest.raises(ValueError, match="predictor"):
            parse(wrong)


def test_a_built_in_name_is_not_given_away():
    with pytest.raises(ValueError, match="built-in"):
        register_predictor("last")(lambda: Linear("last", (0.5,)))
    assert np.array_equal(parse("last")[0].weights, [1.0])


def test_what_a_registered_predictor_gave_is_not_kept_under_its_name(tmp_path):
    with gradlog.open(tmp_path / "r.zarr", k=16, on_error="raise") as log:
        for row in smooth(40, groups=1).reshape(40, -1):
            log.step({"w": row})
    cache = Cache(tmp_path / "cache")
    found = []
    for weight in (1.0, 0.5):
        register_predictor("test-changed")(lambda weight=weight: Linear("test-changed", (weight,)))
        result = analyze_cached(open_run(str(tmp_path / "r.zarr")), cache=cache, predictors=["test-changed"])
        found.append(float(result.variables["kappa"].values[0]))
    assert found[0] != found[1]
