"""Steps, gaps, segments, dates, parameters and flags: each step is there once or accounted for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import audit_run, open_run
from gradlog.format.header import PARTIAL, SKIPPED, WIDENED_GAP
from gradlog.storage.compact import compact
from tests.helpers import forger
from tests.helpers.audits import numbered, texts
from tests.helpers.forger import STEPS, Rows


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

    forger.edit(path, drop)
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

    forger.edit(path, declare)
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

    forger.edit(path, declare)
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

    forger.edit(path, edit)
    assert "1 skipped by the optimizer, 2 partial" in texts(audit_run(path), "steps", "PASS")[0]


def test_honest_nan_is_listed_and_an_unflagged_or_overflagged_one_fails(tmp_path: Path) -> None:
    for name in ("honest", "flagged"):
        with gradlog.open(tmp_path / name, k=8, on_error="raise") as log:
            for t in range(10):
                log.step(np.full(30, np.inf if t == 4 else 1.0 + t))
    assert "1 rows with NaN or inf: steps 4" in texts(audit_run(tmp_path / "honest"), "nonfinite", "PASS")[0]

    def flag(r: Rows) -> None:
        r.flags[7] |= 1

    forger.edit(tmp_path / "flagged", flag)
    assert "contradict the rows' flag at steps 7" in texts(audit_run(tmp_path / "flagged"), "nonfinite", "FAIL")[0]


def test_groups_that_never_move_are_named(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=8, groups="tensors", on_error="raise") as log:
        for t in range(5):
            log.step({"a": np.ones(9) * t, "frozen": np.zeros(9)})
    assert "always zero: frozen" in texts(audit_run(tmp_path / "r.zarr"), "parameters", "PASS")[0]


def test_a_clock_that_goes_back(path: Path) -> None:
    def turn(r: Rows) -> None:
        r.column("wall_time")[50] -= 3600

    forger.edit(path, turn)
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
