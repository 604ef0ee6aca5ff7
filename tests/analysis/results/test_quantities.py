"""The table of numbers: every variable of a Dataset is in it, every place of the JSON document is one of its places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gradlog.analysis import analyze, to_json
from gradlog.analysis.results.forms.labelled_arrays import SCOPES
from gradlog.analysis.results.quantities import QUANTITIES, VARIABLES
from tests.helpers import stores
from tests.helpers.programs import load
from tests.helpers.walks import smooth

PAGES = Path(__file__).resolve().parents[3] / "docs/_ext/pages.py"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    clip = {"clip_coef": np.full(120, 0.5)}
    path = stores.write_run(tmp_path_factory.mktemp("run") / "r.zarr", smooth(120, groups=2), chunk=16, scalars=clip)
    return analyze(str(path), window=40, prefixes=2, by_group=True, components=2, directions=True)


def test_a_dataset_has_the_variables_of_the_table_and_no_others(result):
    prefixes = sorted((f"{scope}_" for scope in SCOPES if scope), key=len, reverse=True)
    named = {next((str(n).removeprefix(p) for p in prefixes if str(n).startswith(p) and n not in VARIABLES), str(n))
             for n in result.data_vars}  # fmt: skip
    elsewhere = {
        "signal_share_run",
        "signal_share_total",
        *(n for n in VARIABLES if n.startswith(("event_", "update_", "weights_"))),
    }
    assert named == set(VARIABLES) - elsewhere  # where the signal is told apart, and where there are events
    for name in named & set(result.data_vars):
        assert result[name].attrs["units"] == VARIABLES[name].units


def at(document, place, labels):
    """Values at a place of a document, in the order of the labels that stand for its asterisks."""
    found = [document]
    for key in place.split("/"):
        found = [x[k] for x in found for k in (labels.pop(0) if key == "*" else [key])]
    return found


def test_json_has_each_number_at_its_place(result):
    document, looked_up = to_json(result), 0
    names = {
        "predictor": list(document["kappa"]),
        "eps": list(document["rank"]),
        "lag": list(document["lag_coherence"]),
    }
    for quantity in QUANTITIES:
        if not quantity.place or not set(quantity.dims) <= set(names) or quantity.name in ("beta", "path_share"):
            continue
        for ending in quantity.endings:
            if quantity.name + ending not in result or ending == "_run_withheld" or quantity.name == "rank_null_method":
                continue
            values = at(document, quantity.place_of(ending), [names[d] for d in quantity.dims])
            expected = result[quantity.name + ending].values.ravel()
            np.testing.assert_array_equal([np.nan if v is None else v for v in values], expected, quantity.name)
            looked_up += 1
    assert looked_up > 60


def test_a_number_that_is_withheld_is_no_undefined_one(result):
    broken = result.copy(deep=True)
    for name in ("rank_estimate", "coherence"):
        broken[name] = broken[name] * np.nan
    undefined = [w for w in to_json(broken)["warnings"] if w.startswith("undefined")]
    assert len(undefined) == 1
    assert "coherence" in undefined[0]
    assert "estimate" not in undefined[0]


def test_the_reference_page_lists_every_number():
    lines = load(PAGES).quantity_reference().splitlines()
    assert len(lines) == len(QUANTITIES) + 2
    assert len({line.count(" | ") for line in lines}) == 1
    assert all(f"`{q.name}`" in line for q, line in zip(QUANTITIES, lines[2:], strict=True))
