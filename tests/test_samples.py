"""The shipped runs against the exact answers that their full gradients gave."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gradlog.analysis import analyze, open_run, to_json
from gradlog.analysis.results.known_trainings import KNOWN, of_run
from tests.helpers.programs import load

SAMPLES = Path(__file__).resolve().parent.parent / "sample_logs"
EXPECTED: dict[str, Any] = json.loads((SAMPLES / "expected.json").read_text())
SKETCHED = ["tiny_sort_rmsprop", "mlp_synth_adamw", "cnn_digits_sgd"]
STREAMED = ["resnet18_photo100_adamw", "gpt2_manual_adamw"]  # too large to keep every full gradient: no true ranks
EXACT = "mlp_wine_exact"
PREDICTORS = ("zero", "last", "ema(0.9)", "ema(0.99)", "trend")


@cache
def measured(name: str) -> dict[str, Any]:
    return to_json(analyze(open_run(SAMPLES / f"{name}.zarr"), predictors=PREDICTORS, by_group=True))


@pytest.fixture(scope="module")
def record() -> ModuleType:
    """The recording script, as a module."""
    pytest.importorskip("torch")
    sys.path.insert(0, str(SAMPLES))
    try:
        return load(SAMPLES / "record.py")
    finally:
        sys.path.remove(str(SAMPLES))


def test_expected_answers_belong_to_the_shipped_runs():
    assert sorted(EXPECTED) == sorted(p.stem for p in SAMPLES.glob("*.zarr")) == sorted([*SKETCHED, *STREAMED, EXACT])


@pytest.mark.parametrize("name", [*SKETCHED, *STREAMED, EXACT])
def test_runs_are_small_closed_and_name_no_machine(name):
    run = open_run(SAMPLES / f"{name}.zarr")
    assert sum(p.stat().st_size for p in (SAMPLES / f"{name}.zarr").rglob("*") if p.is_file()) < 3e6
    assert run.info["steps"] == EXPECTED[name]["steps"]
    assert run.info["dimension"] == EXPECTED[name]["dimension"]
    assert run.info["status"] == "closed"
    assert run.info["provenance"]["hostname"] == ""
    assert run.info["provenance"]["git"]["dirty"] is False
    named = re.compile(r"/(?:tmp|home|root|work|Users)/")
    assert not any(named.search(p.read_text()) for p in (SAMPLES / f"{name}.zarr").rglob("*.json"))
    assert run.info["provenance"]["argv"][0] == "sample_logs/record.py"
    assert len(list((SAMPLES / f"{name}.zarr").glob("seg-*/sketch/c.*"))) > 2


@pytest.mark.parametrize("name", [*SKETCHED, *STREAMED])
@pytest.mark.parametrize("predictor", PREDICTORS[1:])
def test_kappa_is_near_the_truth(name, predictor):
    """At a nominal 95 % an interval may miss, but not by half its own half-width."""
    found, true = measured(name)["kappa"][predictor], EXPECTED[name]["kappa"][predictor]
    assert abs(found["value"] - true) <= 1.5 * (found["high"] - found["low"]) / 2
    assert found["high"] - found["low"] < 0.2 * found["value"]


def test_most_kappa_intervals_cover_the_truth():
    inside = [
        measured(name)["kappa"][p]["low"] <= EXPECTED[name]["kappa"][p] <= measured(name)["kappa"][p]["high"]
        for name in [*SKETCHED, *STREAMED]
        for p in PREDICTORS[1:]
    ]
    assert np.mean(inside) >= 0.9


def test_most_intervals_of_single_groups_cover_the_truth():
    """At a nominal 95 %: single groups may miss, few do."""
    inside = [
        found["kappa"][p]["low"] <= EXPECTED[name]["by_group"][group]["kappa"][p] <= found["kappa"][p]["high"]
        for name in SKETCHED
        for group, found in measured(name)["by_group"].items()
        for p in PREDICTORS[1:]
    ]
    assert len(inside) == 40
    assert np.mean(inside) >= 0.85


def test_intervals_do_not_cover_everything():
    """The answers of another run lie outside: the intervals say something."""
    found = measured("tiny_sort_rmsprop")["kappa"]
    other = EXPECTED["cnn_digits_sgd"]["kappa"]
    assert not any(found[p]["low"] <= other[p] <= found[p]["high"] for p in ("last", "ema(0.9)", "trend"))


@pytest.mark.parametrize("name", [*SKETCHED, *STREAMED])
def test_energy_is_exact_and_the_shuffled_baseline_close(name):
    assert measured(name)["energy"] == pytest.approx(EXPECTED[name]["energy"], rel=1e-6)
    for p in PREDICTORS:
        assert measured(name)["kappa"][p]["null"] == pytest.approx(EXPECTED[name]["null"][p], rel=0.02)


@pytest.mark.parametrize("name", SKETCHED)
@pytest.mark.parametrize("eps", ["0.1", "0.05", "0.01"])
def test_rank_of_the_sketch_is_certified_and_an_estimate_is_right_or_withheld(name, eps):
    found, true = measured(name)["rank"][eps], EXPECTED[name]["rank"][eps]
    assert found["low"] <= found["value"] <= found["high"]
    if found["estimate"] is not None:
        assert found["estimate_low"] <= true <= found["estimate_high"]


def test_the_exact_run_agrees_to_a_millionth():
    found, true = measured(EXACT), EXPECTED[EXACT]
    for p in PREDICTORS:
        assert found["kappa"][p]["value"] == pytest.approx(true["kappa"][p], rel=1e-6)
        assert found["kappa"][p]["null"] == pytest.approx(true["null"][p], rel=1e-6)
        assert found["path_length"][p] == pytest.approx(true["path_length"][p], rel=1e-6)
    for key in ("energy", "increment_energy"):
        assert found[key] == pytest.approx(true[key], rel=1e-6)
    for key, value in true["rank_measures"].items():
        assert found["rank_measures"][key] == pytest.approx(value, rel=1e-6)
    for eps, rank in true["rank"].items():
        assert found["rank"][eps]["value"] == rank
        assert found["rank"][eps]["low"] == rank == found["rank"][eps]["high"]
    leading = np.asarray(found["singular_values"][:32])
    np.testing.assert_allclose(leading, true["singular_values"][: len(leading)], rtol=1e-6)


def test_groups_of_the_exact_run_agree_to_a_millionth():
    for group, found in measured(EXACT)["by_group"].items():
        true = EXPECTED[EXACT]["by_group"][group]
        for p in PREDICTORS:
            assert found["kappa"][p]["value"] == pytest.approx(true["kappa"][p], rel=1e-6)


@pytest.mark.parametrize(("name", "steps"), [("tiny_sort_rmsprop", 2), ("mlp_synth_adamw", 40)])
def test_recording_again_gives_the_same_rows(record, tmp_path, name, steps):
    """As long as rounding, which differs from processor to processor, stays rounding.

    The multilayer perceptron keeps it at 2e-7 for all of forty steps. RMSProp divides by the root of what it has seen,
    which for entries near zero is rounding itself: 3e-7 in the first row of the transformer, 3e-6 in the second, 3e-4
    in the third, and all of the gradient by the fortieth.
    """
    record.record(name, tmp_path / "again.zarr", steps=steps)
    again, shipped = open_run(tmp_path / "again.zarr"), open_run(SAMPLES / f"{name}.zarr")
    assert again.info["provenance"]["notes"]["digest"] == shipped.info["provenance"]["notes"]["digest"]
    np.testing.assert_allclose(again.group_norm2, shipped.group_norm2[:steps], rtol=1e-4)
    a, b = again.rows.read(0, steps), shipped.rows.read(0, steps)
    assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)
    assert np.linalg.norm(a - shipped.rows.read(1, steps + 1)) > 0.1 * np.linalg.norm(b)


def test_the_heavy_first_steps_of_gpt2_are_in_the_run():
    """What a burn-in is for: the first gradient alone holds a large share of all energy, and every kappa feels it."""
    run, true = open_run(SAMPLES / "gpt2_manual_adamw.zarr"), EXPECTED["gpt2_manual_adamw"]
    norm2 = run.group_norm2.sum(axis=1)
    assert norm2[0] == pytest.approx(true["first_energy"], rel=1e-6)
    assert norm2[0] > 0.2 * norm2.sum()


def test_the_oracle_on_a_run_that_is_solved_by_hand(record):
    G = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    true = record.oracle.truth(G)
    assert true["energy"] == 6
    assert true["path_length"] == pytest.approx(
        {
            "zero": 6,
            "last": 1 + 0 + 5,
            "trend": 1 + 0 + 5,
            "ema(0.9)": 1 + 0.9**2 + 0.19**2 + 4,
            "ema(0.99)": 1 + 0.99**2 + 0.0199**2 + 4,
        }
    )
    assert true["c"] == pytest.approx(2 / 12)
    assert true["increment_energy"] == pytest.approx(5)
    assert true["rank"] == {"0.1": 1, "0.05": 1, "0.01": 1}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_table_of_known_trainings_has_the_numbers_of_the_sample(name: str):
    document = measured(name)
    (known,) = (training for training in KNOWN if training.name == name)
    found = of_run(document)
    for predictor, value in known.kappa.items():
        assert value == pytest.approx(found.kappa[predictor], abs=6e-4)
    assert (known.steps, known.parameters, known.rank) == (found.steps, found.parameters, found.rank)
    assert known.shuffled == pytest.approx(found.shuffled, abs=0.5)
    assert known.coherence == pytest.approx(found.coherence, abs=6e-4)
    assert known.signal == (None if found.signal is None else pytest.approx(found.signal, abs=6e-4))
    assert known.optimizer.lower() in found.optimizer.lower() or known.optimizer == "SGD"
