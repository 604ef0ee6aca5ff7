"""The findings of a result in sentences: which come first, what each says, and what it advises."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from gradlog.analysis import analyze, to_json
from gradlog.analysis.common.text import SENTENCE
from gradlog.analysis.results.findings import GUIDE, Finding
from gradlog.analysis.results.findings import findings as all_findings
from tests.helpers import stores

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sorting():
    """Result of the run in which successive gradients oppose each other."""
    return to_json(analyze(ROOT / "sample_logs" / "tiny_sort_rmsprop.zarr", kernel="numpy"))


@pytest.fixture
def document(sorting):
    return copy.deepcopy(sorting)


def findings(document) -> list[Finding]:
    """Findings, after a look at whether each heading stands on the page that is named."""
    found = all_findings(document, SENTENCE)
    headings = (ROOT / GUIDE).read_text().splitlines()
    assert all(f"## {finding.heading}" in headings for finding in found if finding.heading)
    return found


def about(document, word: str) -> Finding:
    """The one finding that has this word."""
    (found,) = [finding for finding in findings(document) if word in finding.text]
    return found


def judge(document, **verdicts: str) -> None:
    """Give predictors other gains: those of the verdicts."""
    gains = {"helps": 0.5, "hurts": -0.5, "no difference": 0.0}
    for name, word in verdicts.items():
        gain = gains[word]
        document["kappa"][name] |= {"gain": gain, "gain_low": gain - 0.01, "gain_high": gain + 0.01}


def test_the_best_predictor_is_named_with_its_error_and_that_of_shuffled_steps(document):
    said = findings(document)[0].text
    best = document["kappa"]["ar(8)"]
    share = f"{100 * (1 - best['value']):.0f} % of the gradients' squared norm is predictable, 0 % if shuffled: ar(8), "
    assert said.startswith(share)
    assert f"kappa {best['value']:.3f} ({best['low']:.3f} to {best['high']:.3f}), shuffled 1.00" in said
    assert "helps ar(8); hurts last and trend; " in said


def test_a_best_predictor_that_order_does_not_help_is_no_finding(document):
    judge(document, **{name: "no difference" for name in document["kappa"] if name != "zero"})
    first = findings(document)[0]
    assert first.text.startswith("The gradients are as predictable as if shuffled")
    assert first.text.endswith("Order effect on all 6 predictors: no difference.")
    assert first.heading == "Kappa lies near its shuffled value"


def test_order_that_helps_without_beating_zero_says_so(document):
    document["kappa"] = {"last": document["kappa"]["last"]}
    judge(document, last="helps")
    assert "predicting zero errs less" in findings(document)[0].text


def test_what_successive_gradients_have_in_common_follows_from_last(document):
    assert about(document, "Successive").heading == "`last` hurts"
    assert "oppose each other: coherence -0.81" in about(document, "Successive").text
    document["lag_coherence"]["1"]["high"] = 0.1
    assert "less alike than those of random steps" in about(document, "Successive").text
    judge(document, last="helps")
    assert "more alike than those of random steps" in about(document, "Successive").text
    judge(document, last="no difference")
    assert not any("Successive" in finding.text for finding in findings(document))


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        ({"null_low": 13, "null_high": 15}, "fewer directions than if shuffled: 12 hold 90 %"),
        ({"null_low": 10, "null_high": 12}, "as many directions as if shuffled"),
        ({"null_low": 8, "null_high": 11}, "more directions than if shuffled"),
        ({"null_low": 8, "null_high": 11, "high": None}, "more directions than if shuffled: 12 or more hold"),
        ({"null_low": None, "null_high": None}, "Directions of the changes between steps: 12 hold"),
        ({"value": 400, "low": 400, "high": 400}, "too near the sketch's limit to be known"),
    ],
)
def test_the_rank_is_compared_with_that_of_shuffled_steps(document, rank, said):
    document["rank"]["0.1"] |= {"low": 12, "high": 12} | rank
    assert said in about(document, "90 %").text


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (400, "No step stands out"),
        (30, "Many steps contribute, and no event is among the last 10"),
        (20, "Many steps contribute"),
    ],
)
def test_no_event_is_claimed_of_steps_that_were_not_judged(document, steps, said):
    document["run"]["steps"] = steps
    document["events"]["unwatched"] = 20
    assert about(document, "hold half of the squared").text.startswith(f"{said}: 69")


def test_a_few_steps_that_hold_half_of_the_path_come_first(document):
    assert findings(document)[4].text.startswith("No step stands out: 69 of 400 hold half of the squared error")
    document["path_shares"]["half_steps"] = 40
    first = findings(document)[0]
    assert first.text.startswith("A few steps dominate: 40 of 400 hold half")
    assert "--step 359" in first.next_step


def test_no_more_steps_are_named_than_hold_half_of_the_path(document):
    shares = [{"step": 201, "share": 0.47}, {"step": 200, "share": 0.46}, {"step": 86, "share": 0.001}]
    document["path_shares"] |= {"half_steps": 2, "steps": shares}
    assert findings(document)[0].text.endswith("most of all 201 (47.0 %) and 200 (46.0 %).")


def test_a_run_too_short_for_two_windows_is_not_sent_to_windows(document):
    judge(document, **{name: "no difference" for name in document["kappa"] if name != "zero"})
    assert any("--window" in finding.next_step for finding in findings(document))
    document["rows"] = 199
    assert not any("--window" in finding.next_step for finding in findings(document))


def test_first_steps_that_hold_half_of_the_path_are_told_from_a_spike(document):
    document["path_shares"] |= {"half_steps": 40, "steps": [{"step": step, "share": 0.1} for step in (3, 0, 39)]}
    first = findings(document)[0]
    assert first.text.startswith("The first steps dominate: 40 of 400 hold half")
    assert "--burn-in 40" in first.next_step


@pytest.mark.parametrize(
    ("share", "groups", "dominates"), [(0.84, 4, True), (0.49, 4, False), (0.6, 3, False), (0.9, 2, False)]
)
def test_a_group_dominates_with_more_than_half_and_twice_an_equal_share(document, share, groups, dominates):
    shares = [share, *[(1 - share) / (groups - 1)] * (groups - 1)]
    document["path_shares"]["by_group"] = {f"g{i}": {"last": share} for i, share in enumerate(shares)}
    assert any("g0 holds" in finding.text for finding in findings(document)) is dominates


def test_a_group_that_holds_nearly_all_energy_is_named_first_and_the_verdicts_go_by_group(document):
    groups = document["by_group"]
    for name, group in groups.items():
        group["energy"] = document["energy"] * (0.95 if name == "layer.1" else 0.05 / (len(groups) - 1))
    judge(groups["layer.0"], last="helps")
    judge(groups["layer.1"], last="hurts")
    judge(groups["head"], last="hurts")
    first = findings(document)[0]
    assert "layer.1 holds 95.0 % of the energy" in first.text
    assert first.first
    assert first.heading == "One group dominates"
    assert "helps: layer.0; hurts: " in about(document, "group by group").text
    assert not any(
        "One group dominates" in finding.text and "layer.1" in finding.text for finding in findings(document)
    )


def test_ninety_percent_of_the_energy_in_one_group_are_not_over_ninety(document):
    for name, group in document["by_group"].items():
        group["energy"] = document["energy"] * (0.9 if name == "layer.1" else 0.1 / (len(document["by_group"]) - 1))
    assert not any(finding.first or "group by group" in finding.text for finding in findings(document))


@pytest.mark.parametrize(("stage", "word"), [("consumed", "cut to about one length"), ("preclip", "before clipping")])
def test_steps_that_were_nearly_all_clipped_are_told_with_what_was_recorded(document, stage, word):
    document["run"]["stage"] = stage
    document["clipping"] = {"share": 0.93, "factor": 0.31}
    first = findings(document)[0]
    assert first.text.startswith("Nearly every step was clipped: 93 %")
    assert "by 0.31 on average" in first.text
    assert word in first.text
    document["clipping"]["share"] = 0.89
    assert "clipped" not in findings(document)[0].text
    document["clipping"]["share"] = None
    assert "clipped" not in findings(document)[0].text


def test_the_share_of_clipped_steps_is_that_of_the_steps_that_logged_a_coefficient(tmp_path):
    rows = np.random.default_rng(0).standard_normal((40, 2, 8))
    coefficient = np.where(np.arange(40) % 4 == 0, 1.0, 0.25)
    coefficient[:4] = np.nan, np.nan, 1.0, np.inf
    scalars = {"clip_coef": coefficient}
    path = stores.write_run(tmp_path / "clipped.zarr", rows, scalars=scalars)
    seen = coefficient[np.isfinite(coefficient)]
    clipping = to_json(analyze(path, ["last"], cache=False))["clipping"]
    assert clipping["share"] == pytest.approx((seen < 1).mean())
    assert clipping["factor"] == pytest.approx(seen.mean())
    parts = stores.write_run(tmp_path / "parts.zarr", rows, scalars=scalars | {"clip_coef/1": coefficient})
    assert "clipping" not in to_json(analyze(parts, ["last"], cache=False))
