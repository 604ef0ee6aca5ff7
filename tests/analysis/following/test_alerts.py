"""Conditions on rows: the language against Python itself, row by row; and looks at a run that grows and is rewound."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlog.analysis import open_run
from gradlog.analysis.following.alerts import Alerts
from gradlog.analysis.following.expressions import Expression, Rows
from gradlog.format.header import NONFINITE
from tests.helpers import stores


def slowly(text: str, values: dict[str, list[float]]) -> list[bool]:
    """Python's own reading of a condition without ``not``, for each row by itself."""
    found = []
    for t in range(len(values["norm"])):

        def of(kind, name, window, t=t):
            known = [x for x in values[name][:t] if math.isfinite(x)][-window:]
            return kind(known) if len(known) == window else math.nan

        names = {name: column[t] for name, column in values.items()}
        names |= {f"max_{w}": of(max, "norm", w) for w in (1, 3)}
        names |= {f"median_{w}": of(statistics.median, "norm", w) for w in (1, 3)}
        names |= {f"mean_{w}": of(statistics.fmean, "norm", w) for w in (1, 3)}
        found.append(bool(eval(text, {}, names)))
    return found


TERMS = ["norm", "loss", "2", "0.5", "max_3", "median_3", "mean_1", "(norm + loss)", "(loss - median_1)"]
comparisons = st.builds("{} {} {}".format, st.sampled_from(TERMS), st.sampled_from(["<", "<=", ">", ">=", "=="]),
                        st.builds("{} {} {}".format, st.sampled_from(TERMS), st.sampled_from("+-*"),
                                  st.sampled_from(TERMS)))  # fmt: skip
conditions = st.recursive(
    comparisons,
    lambda inner: st.builds("({}) {} {}".format, inner, st.sampled_from(["and", "or"]), inner),
    max_leaves=4,
)
column = st.sampled_from([0.0, 1.0, 1.0, 2.0, 7.0, math.nan])


@settings(max_examples=25, deadline=None)
@given(conditions, st.lists(st.tuples(column, column), min_size=1, max_size=9), st.integers(0, 9))
def test_a_condition_means_what_python_would_say(text, table, cut):
    values = {"norm": [a for a, _ in table], "loss": [b for _, b in table]}
    expected = slowly(text, values)
    for name in ("max", "median", "mean"):
        for window in (1, 3):
            text = text.replace(f"{name}_{window}", f"{name}(norm, {window})")
    expression = Expression(f"{text} or norm < norm")
    arrays = {name: np.array(x) for name, x in values.items()}
    whole = expression.true(Rows(arrays, {}))
    assert whole.tolist() == expected
    before = {name: x[:cut][np.isfinite(x[:cut])] for name, x in arrays.items()}
    if cut < len(table):
        rest = expression.true(Rows({name: x[cut:] for name, x in arrays.items()}, before))
        assert rest.tolist() == expected[cut:]


@pytest.mark.parametrize(("text", "names", "holds"), [
    ("norm > 2 * median(2)", {"norm"}, [False, False, False, True]),
    ("median(2) < norm / 2", {"norm"}, [False, False, False, True]),
    ("norm > 2 * (median(2) + 0) or loss > 5 * min(1)", {"norm", "loss"}, [False, False, False, True]),
    ("not loss > 0", {"loss"}, [False, False, True, False]),  # not known is not false
    ("norm != 3", {"norm"}, [True, True, False, True]),
    ("-norm < -50 and not nonfinite", {"norm", "nonfinite"}, [False, False, False, True]),
    ('norm("a/b.0") >= 2 and "lr/muon" == 1', {'norm("a/b.0")', "lr/muon"}, [False, False, True, True]),
    ('"a, )" > max("a, )", 1)', {"a, )"}, [False, True, True, True]),
])  # fmt: skip
def test_what_is_compared_is_what_statistics_are_of(text, names, holds):
    rows = {"norm": [1.0, 2, 3, 100], "loss": [1.0, np.nan, -1, 3], "nonfinite": [0.0] * 4,
            'norm("a/b.0")': [0.0, 1, 2, 3], "lr/muon": [1.0] * 4, "a, )": [0.0, 1, 2, 3]}  # fmt: skip
    expression = Expression(text)
    assert expression.names == names
    assert expression.true(Rows({name: np.array(x) for name, x in rows.items()}, {})).tolist() == holds


@pytest.mark.parametrize("text", [
    "", "norm >", "norm > median(", "median(3)", "1 > 2", "norm > median(0)", "norm > median(1.5)", "norm > 1 2",
    "norm > median(1000000)", "(" * 100 + "norm", "not " * 90 + "norm", "-" * 390 + "norm", "norm" * 200, "norm ** 2",
    "norm; import os", "norm > 1e999", "__import__('os')", "norm.real > 1", "norm(3)", 'norm > "x', "and > 1", "[norm]",
    "norm > median(3, )",
])  # fmt: skip
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        Expression(text)


@pytest.fixture
def rows():
    return 1 + 0.1 * np.random.default_rng(0).normal(size=(60, 2, 8))


def test_looks_find_what_one_look_finds_and_the_newest_row_waits(tmp_path, rows):
    rows[[20, 21, 40]] *= 9
    loss = np.where(np.arange(60) == 59, 5.0, 1.0)
    texts = ["norm > 3 * median(10)", "loss > 2", 'norm("g1") > 5 * mean(4)', "nonfinite", "step == 7"]
    flags = np.where(np.arange(60) == 33, NONFINITE, 0)
    steps = [[20], [59], [20], [33], [7]]
    for cuts, repeated in (([60], False), ([5, 20, 22, 41, 60], True)):
        alerts, found = Alerts([Expression(text) for text in texts]), []
        for n in cuts:
            path = stores.write_run(
                tmp_path / f"{len(cuts)}-{n}", rows[:n], flags=flags[:n], scalars={"loss": loss[:n]}
            )
            told = alerts.check(open_run(path), live=n < 60)
            assert all(alert.step < n - (n < 60) for alert in told)
            found += told
        got = [[alert.step for alert in found if alert.condition == text] for text in texts]
        assert got == ([[20, 40], [59], [20, 40], [33], [7]] if repeated else steps)
    told = next(alert for alert in found if alert.condition == texts[0])
    usual = np.median(np.linalg.norm(rows[10:20].astype("f4").reshape(10, -1), axis=1))
    assert told.values["median(norm, 10)"] == pytest.approx(usual, rel=1e-6)


def test_rows_that_are_recorded_again_are_checked_again(tmp_path, rows):
    alerts = Alerts([Expression("norm > 3 * median(10)")])
    assert alerts.check(open_run(stores.write_run(tmp_path / "a", rows[:40]))) == []
    rows[35] *= 9  # step 35 - 10: the second segment begins ten steps before the first one ends
    again = open_run(stores.write_rewound(tmp_path / "b", rows, 30, back=10))
    assert [alert.step for alert in alerts.check(again)] == [25]


def test_abandoned_rows_are_in_no_statistic(tmp_path, rows):
    alerts = Alerts([Expression("norm > 3 * median(10)"), Expression("norm < median(10) / 3")])
    diverged = rows.copy()
    diverged[20:] *= 100
    assert [alert.step for alert in alerts.check(open_run(stores.write_run(tmp_path / "a", diverged[:35])))] == [20]
    diverged[35:] = rows[35:]  # steps 20, ...: as before the divergence, with one spike at step 22
    diverged[37] *= 9
    again = open_run(stores.write_rewound(tmp_path / "b", diverged, 35, back=15))
    alone = Alerts([Expression("norm > 3 * median(10)"), Expression("norm < median(10) / 3")]).check(again)
    assert [(alert.step, alert.values) for alert in alerts.check(again)] == [
        (alert.step, alert.values) for alert in alone
    ]
    assert [alert.step for alert in alone] == [22]


def test_what_no_row_has_is_known(tmp_path, rows):
    alerts = Alerts([Expression('loss > 1 or norm("g0") > 2 or norm("g7") > 2 or skipped')], first_step=3)
    run = open_run(stores.write_run(tmp_path / "a", rows))
    assert alerts.unknown(run) == ["loss", 'norm("g7")']
    assert alerts.check(run)[0].step == 3
