"""Each check of a run's content on a run made for it: what it reports, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import audit_run, open_run
from gradlog.analysis.audit.checks import norms
from gradlog.errors import CorruptRunError
from gradlog.format.header import PARTIAL, SKIPPED, WIDENED_GAP
from gradlog.sketching.fold_hash import FoldHash
from gradlog.storage.compact import compact
from tests.helpers import forger
from tests.helpers.forger import STEPS, Rows, Training


def texts(report, check: str, *statuses: str) -> list[str]:
    return [x.text for x in report.lines if x.check == check and x.status in (statuses or ("FAIL", "WARN"))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    forger.record(tmp_path / "run.zarr", Training())
    return tmp_path / "run.zarr"


@pytest.fixture
def resumed(tmp_path: Path) -> Path:
    """Steps 0 to 59, rewound, steps 40 to 99."""
    path, training = tmp_path / "run.zarr", Training()
    options = {"k": 64, "chunk": 32, "like": training.start(), "on_error": "raise", "mode": "a"}
    for first, stop in ((0, 60), (40, 100)):
        with gradlog.open(path, first_step=first, **options) as log:
            for t, _, g, _ in training.walk(stop):
                if g is not None and t >= first:
                    log.step(g, loss=0.1)
    return path


def forge(path: Path, edit) -> None:
    forger.forge(path, lambda rows: edit(*rows))


# --- completeness ----------------------------------------------------------------------------------------------


def test_a_rewound_run_is_drawn_and_passes(resumed: Path) -> None:
    report = audit_run(resumed)
    assert not report.failed
    (drawn,) = texts(report, "lineage", "PASS")
    assert (
        "seg-000000-r0000 steps 0 to 59; seg-000001-r0000 steps 40 to 99, after seg-000000-r0000 from step 39" in drawn
    )
    assert not texts(report, "rows")  # the same steps again are no copies


def test_history_that_was_removed(resumed: Path) -> None:
    forger.forge(resumed, lambda rows: rows[1:])
    failed = [x.text for x in audit_run(resumed).lines if x.status == "FAIL"]
    assert any("continues seg-000000-r0000" in text for text in failed)


def test_history_that_was_removed_with_its_mention(resumed: Path) -> None:
    def orphan(rows: list[Rows]) -> list[Rows]:
        rows[1].header = dataclasses.replace(rows[1].header, parent=None, parent_step=None)
        return rows[1:]

    forger.forge(resumed, orphan)
    report = audit_run(resumed)
    assert not report.failed
    assert "begins at step 40, and nothing in the run comes before" in texts(report, "lineage", "WARN")[0]


def test_a_gap_between_segments_is_told(tmp_path: Path) -> None:
    for first in (0, 30):
        with gradlog.open(tmp_path / "r.zarr", k=8, mode="a", first_step=first, on_error="raise") as log:
            for t in range(first, first + 10):
                log.step(np.arange(20.0) + t)
    report = audit_run(tmp_path / "r.zarr")
    assert not report.failed
    assert "steps 10 to 29 before seg-000001-r0000 are not in the run" in texts(report, "lineage", "WARN")[0]


def numbered(path: Path, steps, **options) -> Path:
    with gradlog.open(path, k=8, on_error="raise", like=np.zeros(20), **options) as log:
        for t in steps:
            log.step(np.random.default_rng(t).standard_normal(20), step=t)
    return path


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        (range(60), {"every": 3}, "PASS"),
        (range(0, 300, 10), {}, "PASS"),
        ([*range(10), *range(12, 40)], {}, "FAIL"),
        ([0, 1, 3, 8, 9, 15, 22, 23, 31], {}, "WARN"),
        ([5], {}, "PASS"),
    ],
    ids=["every", "strided", "hole", "irregular", "one"],
)
def test_step_numbers(tmp_path: Path, steps, options, expected: str) -> None:
    report = audit_run(numbered(tmp_path / "r.zarr", steps, **options))
    assert next(x.status for x in report.lines if x.check == "steps") == expected


def test_dropped_rows_explain_a_gap(path: Path) -> None:
    def drop(r: Rows) -> None:
        r.take(np.delete(np.arange(STEPS), [40, 41, 42]))
        r.header = dataclasses.replace(r.header, dropped=((40, 41, "slow disk"), (42, 42, "no gradient")))

    forge(path, drop)
    assert "3 dropped and recorded as such" in texts(audit_run(path), "steps", "PASS")[0]


SLOW = "the disk did not keep up"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ([], [(40, 42, SLOW)], ""),
        ([(40, 42, SLOW)], [(40, 42, SLOW)], ""),
        ([(40, 42, SLOW)], [(40, 42, SLOW), (60, 61, SLOW)], ""),
        ([(30, 31, SLOW)], [(30, 39, SLOW)], ""),
        ([(3, 5, SLOW)], [(3, 45, WIDENED_GAP + SLOW)], ""),
        ([], [(20, 20, SLOW)], "steps 20 to 20 came to it, and step 31 had been written already"),
        ([(3, 5, SLOW)], [(3, 4, SLOW)], "steps 3 to 5 became steps 3 to 4"),
        ([(3, 5, SLOW)], [(4, 5, SLOW)], "steps 3 to 5 became steps 4 to 5"),
        ([(3, 5, SLOW)], [(3, 5, "no gradient")], "steps 3 to 5 became steps 3 to 5"),
        ([(3, 5, SLOW)], [(3, 45, SLOW)], "steps 3 to 5 became steps 3 to 45"),
        ([(3, 5, SLOW)], [(3, 20, WIDENED_GAP + SLOW)], "steps 3 to 5 became steps 3 to 20"),
        ([(3, 5, SLOW)], [], "steps 3 to 5 are no longer declared"),
        ([(3, 5, SLOW), (9, 9, SLOW)], [(3, 6, SLOW), (9, 9, SLOW)], "steps 3 to 5 became steps 3 to 6"),
    ],
    ids=str,
)
def test_declared_gaps_stay_as_they_were(path: Path, old: list, new: list, fault: str) -> None:
    def declare(r: Rows) -> None:
        r.header = dataclasses.replace(r.header, dropped=tuple(new))
        r.earlier = {0: tuple(old)}

    forge(path, declare)
    found = [t for t in texts(audit_run(path), "steps", "FAIL") if "declares other" in t]
    expected = f"seg-000000-r0000: manifest 1 declares other dropped steps than manifest 0: {fault}"
    assert found == ([expected] if fault else [])
    compact(path)
    assert [t for t in texts(audit_run(path), "steps", "FAIL") if "declares other" in t] == found


def test_a_gap_that_the_header_alone_declares(path: Path) -> None:
    def declare(r: Rows) -> None:
        r.take(np.delete(np.arange(STEPS), 40))
        r.header = dataclasses.replace(r.header, dropped=((40, 40, SLOW),))
        r.earlier = dict.fromkeys(range(3), ())

    forge(path, declare)
    found = texts(audit_run(path), "steps", "FAIL")
    assert found == [
        "seg-000000-r0000: the segment's header declares other dropped steps than manifest 2: "
        "steps 40 to 40 came to it, and step 95 had been written already"
    ]


def test_what_the_recorder_declares_is_no_contradiction(tmp_path: Path) -> None:
    nothing = {"a": None, "b": None}
    with (
        pytest.warns(gradlog.GradlogWarning, match="no parameter had a gradient"),
        gradlog.open(tmp_path / "r.zarr", like={"a": np.zeros(5), "b": np.zeros(3)}, k=4, chunk=8) as log,
    ):
        for t in range(300):
            log.step(nothing if t % 3 == 0 or t % 40 > 30 else {"a": np.ones(5) * t, "b": np.ones(3)})
    report = audit_run(tmp_path / "r.zarr")
    assert not [t for t in texts(report, "steps", "FAIL") if "declares other" in t]
    assert open_run(tmp_path / "r.zarr").segments[0].header.dropped[-1][2].startswith(WIDENED_GAP)


def test_flags_are_counted_and_odd_steps_named(path: Path) -> None:
    def edit(r: Rows) -> None:
        r.flags[3] |= SKIPPED
        r.flags[4:6] |= PARTIAL

    forge(path, edit)
    assert "1 skipped by the optimizer, 2 partial" in texts(audit_run(path), "steps", "PASS")[0]


def test_honest_nan_is_listed_and_an_unflagged_or_overflagged_one_fails(tmp_path: Path) -> None:
    for name in ("honest", "flagged"):
        with gradlog.open(tmp_path / name, k=8, on_error="raise") as log:
            for t in range(10):
                log.step(np.full(30, np.inf if t == 4 else 1.0 + t))
    assert "1 rows with NaN or inf: steps 4" in texts(audit_run(tmp_path / "honest"), "nonfinite", "PASS")[0]

    def flag(r: Rows) -> None:
        r.flags[7] |= 1

    forge(tmp_path / "flagged", flag)
    assert "contradict the rows' flag at steps 7" in texts(audit_run(tmp_path / "flagged"), "nonfinite", "FAIL")[0]


def test_groups_that_never_move_are_named(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=8, groups="tensors", on_error="raise") as log:
        for t in range(5):
            log.step({"a": np.ones(9) * t, "frozen": np.zeros(9)})
    assert "always zero: frozen" in texts(audit_run(tmp_path / "r.zarr"), "parameters", "PASS")[0]


def test_a_clock_that_goes_back(path: Path) -> None:
    def turn(r: Rows) -> None:
        r.column("wall_time")[50] -= 3600

    forge(path, turn)
    assert any("the clock goes back after steps 49" in t for t in texts(audit_run(path), "time", "WARN"))


def redate(path: Path, **fields: str) -> None:
    """Give run and segment other dates, all digests recomputed."""
    header = dataclasses.replace(forger.load(path)[0], created=fields.get("created", forger.load(path)[0].created))

    def edit(rows: list[Rows]) -> None:
        told = {name: value for name, value in fields.items() if name != "created"}
        rows[0].header = dataclasses.replace(rows[0].header, **told)

    forger.forge(path, edit, header)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"created": "2019-05-01T00:00:00.000+00:00"}, "the run is dated 2019-05-01T00:00:00.000+00:00, its first"),
        ({"created": "2999-05-01T00:00:00.000+00:00"}, "the run is dated 2999-05-01T00:00:00.000+00:00, its first"),
        ({"opened": "2999-05-01T00:00:00.000+00:00"}, "seg-000000-r0000: manifest 0 is dated"),
        ({"closed": "2019-05-01T00:00:00.000+00:00"}, "seg-000000-r0000: manifest 0 is dated"),
    ],
    ids=["created early", "created late", "opened late", "closed early"],
)
def test_dates_in_no_order_are_named(path: Path, fields: dict[str, str], said: str) -> None:
    assert not texts(audit_run(path), "time")
    redate(path, **fields)
    assert any(t.startswith(said) for t in texts(audit_run(path), "time", "WARN"))


# --- norms -----------------------------------------------------------------------------------------------------


def test_columns_are_those_of_the_map() -> None:
    S = FoldHash(k=16, seed=3, m=64)
    found = [int(np.flatnonzero(S.sketch(np.eye(200)[j], "w"))[0]) for j in range(200)]
    assert S.columns("w", 200).tolist() == found


def test_a_tiny_group_is_compared_to_rounding(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with gradlog.open(
        path, k=256, groups="tensors", like={"a": np.zeros(3), "b": np.zeros(9)}, on_error="raise"
    ) as log:
        for t in range(20):
            rng = np.random.default_rng(t)
            log.step({"a": rng.standard_normal(3), "b": rng.standard_normal(9)})
    assert not audit_run(path).failed

    def nudge(r: Rows) -> None:
        r.sketch[7, 0] *= 1.001

    forge(path, nudge)
    assert "group 'a': the sketches of steps 7 contradict" in texts(audit_run(path), "norms", "FAIL")[0]


def test_a_row_under_a_gradient_of_zeros(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=8, groups="tensors", on_error="raise") as log:
        for t in range(5):
            log.step({"a": np.ones(900) * t, "b": np.zeros(900)})

    def fill(r: Rows) -> None:
        r.sketch[2, 1, 0] = 1

    forge(tmp_path / "r.zarr", fill)
    assert "group 'b': the sketches of steps 2" in texts(audit_run(tmp_path / "r.zarr"), "norms", "FAIL")[0]


def test_exact_rows_are_compared_to_rounding(tmp_path: Path) -> None:
    forger.record(tmp_path / "r.zarr", Training(), k="exact")
    assert not audit_run(tmp_path / "r.zarr").failed

    def nudge(r: Rows) -> None:
        r.sketch[30] *= 1.001

    forge(tmp_path / "r.zarr", nudge)
    assert len(texts(audit_run(tmp_path / "r.zarr"), "norms", "FAIL")) == len(forger.SHAPES)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_sketches_scaled_throughout(path: Path, factor: float) -> None:
    def scale(r: Rows) -> None:
        r.sketch *= factor

    forge(path, scale)
    assert texts(audit_run(path), "norms", "FAIL")


def test_one_group_shrunk_throughout_may_be_a_pair_that_cancels(path: Path) -> None:
    def shrink(r: Rows) -> None:
        r.sketch[:, 0] *= 0.3

    forge(path, shrink)
    report = audit_run(path)
    assert not texts(report, "norms", "FAIL")
    assert texts(report, "norms", "WARN")


def test_updates_whose_norms_are_those_of_the_sketch_are_skipped(tmp_path: Path) -> None:
    forger.record(tmp_path / "r.zarr", Training(), what="update")

    def own(r: Rows) -> None:
        r.norm2 = np.square(r.sketch.astype(float)).sum(2)

    forge(tmp_path / "r.zarr", own)
    assert texts(audit_run(tmp_path / "r.zarr"), "norms", "SKIP")


def test_the_limits_have_the_false_alarm_rate_that_they_claim() -> None:
    """Chi-square limits at a level that a simulation reaches: one in a hundred rows of spread vectors outside."""
    S = FoldHash(k=64)
    rng = np.random.default_rng(0)
    law = norms.chi2(64 / (1 + (3 * 64 + 6) / S.spec.m))
    low, high = law.ppf(0.005) / 64, law.isf(0.005) / 64
    r = []
    for _ in range(4000):
        x = rng.standard_normal(1500).astype(np.float32)
        r.append(np.sum(S.sketch(x, "w").astype(float) ** 2) / np.sum(x.astype(float) ** 2))
    outside = np.mean((np.array(r) < low) | (np.array(r) > high))
    assert 0.005 < outside < 0.02


# --- copies, joins, scalars ---------------------------------------------------------------------------------------


def test_a_row_copied_with_noise_and_sign(path: Path) -> None:
    def copy(r: Rows) -> None:
        noise = np.random.default_rng(1).standard_normal(r.sketch[20].shape)
        r.sketch[70] = -r.sketch[20] + 1e-4 * noise * np.abs(r.sketch[20]).max()
        r.norm2[70] = r.norm2[20]

    forge(path, copy)
    assert "steps 20 and 70 hold near-identical rows, one -1 times the other" in texts(audit_run(path), "rows", "WARN")


def test_slow_gradients_are_no_copies(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=64, on_error="raise") as log:
        x, y = np.random.default_rng(0).standard_normal((2, 900))
        for t in range(80):
            log.step(x + 1e-4 * t * y)
    assert not texts(audit_run(tmp_path / "r.zarr"), "rows")


def test_constant_gradients_are_told_once(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=16, on_error="raise") as log:
        for _ in range(50):
            log.step(np.arange(100.0))
    found = texts(audit_run(tmp_path / "r.zarr"), "rows", "WARN")
    assert 1 < len(found) <= 21


def test_a_join_where_the_gradient_jumps(resumed: Path) -> None:
    assert texts(audit_run(resumed), "joins", "PASS")

    def jump(first: Rows, second: Rows) -> None:
        second.sketch *= 100
        second.norm2 *= 1e4

    forge(resumed, jump)
    assert "the gradient's norm changes" in texts(audit_run(resumed), "joins", "WARN")[0]


def test_clipping_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with gradlog.open(path, k=64, on_error="raise") as log:
        for t in range(20):
            g = np.random.default_rng(t).standard_normal(900)
            norm = float(np.linalg.norm(g.astype(np.float32)))
            log.step(g * min(1, 29 / norm), lr=0.1, clip_norm=norm, clip_coef=min(1, 29 / norm), grad_norm=norm)
    assert texts(audit_run(path), "scalars", "PASS") == ["consistent: clip_coef, clip_norm, grad_norm, lr"]

    def edit(r: Rows) -> None:
        r.column("clip_coef")[5] = 0.5
        r.column("lr")[6] = -0.1

    forge(path, edit)
    found = " ".join(texts(audit_run(path), "scalars", "WARN"))
    assert "lr is negative at steps 6" in found
    assert "clip_norm is not the norm of the recorded gradient at steps 5" in found


# --- two runs, provenance, compaction ------------------------------------------------------------------------------


def test_two_runs(tmp_path: Path, path: Path) -> None:
    other, training = tmp_path / "fork.zarr", Training()
    with gradlog.open(other, k=16, chunk=16, groups="tensors", like=training.start(), on_error="raise") as log:
        for t, _, g, _ in training.walk():
            if g is not None:
                log.step(g if t < 50 else {n: x * (2 + t) for n, x in g.items()})
    forger.record(tmp_path / "stranger.zarr", Training(7))
    assert "both begin with the same 50 rows, to step 49; then they part at step 50" in texts(
        audit_run(path, other), "shared"
    )
    assert texts(audit_run(path, tmp_path / "stranger.zarr"), "shared", "PASS")
    assert "both are copies of one run" in texts(audit_run(path, path), "shared")[0]

    def splice(r: Rows) -> None:
        donor = forger.load(tmp_path / "stranger.zarr")[1][0]
        r.norm2[60:80], r.sketch[60:80] = donor.norm2[10:30], donor.sketch[10:30]

    forge(path, splice)
    found = texts(audit_run(path, tmp_path / "stranger.zarr"), "shared", "WARN")
    assert found == ["20 further rows are in both, such as step 60 here and 10 there"]


def test_a_second_run_that_is_damaged_fails(tmp_path: Path, path: Path) -> None:
    other = tmp_path / "other.zarr"
    forger.record(other, Training(1))
    (other / "seg-000000-r0000" / "step" / "c.1").write_bytes(b"nothing")
    report = audit_run(path, other)
    assert report.failed
    assert not texts(report, "shared", "PASS", "WARN")


def test_a_run_that_no_reader_opens_fails_whatever_is_asked_beside(tmp_path: Path, path: Path) -> None:
    """Every digest fits, but the steps go back: each check that reads the run is a finding, and the others go on."""
    other = tmp_path / "other.zarr"
    forger.record(other, Training(1))

    def back(r: Rows) -> None:
        r.step[:] = r.step[::-1].copy()

    forge(other, back)
    with pytest.raises(CorruptRunError, match="do not increase"):
        open_run(other)
    assert "do not increase" in texts(audit_run(path, other), "shared")[0]
    report = audit_run(other, path, replay=lambda step: {})
    assert "do not increase" in texts(report, "replay")[0]
    assert "do not increase" in texts(report, "shared")[0]


def test_provenance_is_a_checklist(tmp_path: Path) -> None:
    notes = {"seed": 3, "data": {"sha256": "ab" * 32}}
    with gradlog.open(tmp_path / "r.zarr", k=8, notes=notes, on_error="raise") as log:
        log.step(np.ones(20))
    report = audit_run(tmp_path / "r.zarr")
    there = next(x.facts["recorded"] for x in report.lines if x.check == "provenance" and x.status == "PASS")
    assert {"seed of the training", "digest or revision of the data", "library versions"} <= set(there)


def test_a_compacted_run_reads_the_same(path: Path) -> None:
    before = [(x.status, x.text) for x in audit_run(path).lines if x.check not in ("limits", "provenance")]
    compact(path)
    assert [(x.status, x.text) for x in audit_run(path).lines if x.check not in ("limits", "provenance")] == before


def test_a_run_that_is_being_recorded(tmp_path: Path) -> None:
    log = gradlog.open(tmp_path / "r.zarr", k=8, chunk=8, on_error="raise")
    for t in range(13):
        log.step(np.random.default_rng(t).standard_normal(30))
    report = audit_run(tmp_path / "r.zarr")
    log.close()
    assert not report.failed
    assert "13 rows" in texts(report, "steps", "PASS")[0]
    assert "status is 'recording'" in texts(report, "lineage", "WARN")[0]


def test_an_empty_run(tmp_path: Path) -> None:
    gradlog.open(tmp_path / "r.zarr", k=8, like=np.zeros(20), on_error="raise").close()
    report = audit_run(tmp_path / "r.zarr")
    assert not report.failed
    json.dumps(report.to_json(), allow_nan=False)
