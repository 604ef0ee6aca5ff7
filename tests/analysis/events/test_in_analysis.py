"""Events ride on the one pass of an analysis, and are those of ``find_events``."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gradlog.analysis import analyze, find_events, open_run, to_json
from gradlog.analysis.events import find
from gradlog.analysis.events.events import Events
from gradlog.analysis.reading.rows import heard
from gradlog.analysis.reading.run import Run
from gradlog.analysis.report.study import study
from gradlog.analysis.results.findings import findings
from gradlog.format.header import NONFINITE
from tests.helpers import stores

STEPS, AT = 240, 150


def eventful(path, **more):
    """A change that leads the norm by two steps, an odd batch, and a row with NaN."""
    rng = np.random.default_rng(0)
    rows = (3 * rng.normal(size=(1, 3, 16)) + 0.3 * rng.normal(size=(STEPS, 3, 16))).astype(np.float32)
    rows[AT] = rows[AT] @ np.linalg.qr(rng.normal(size=(16, 16)))[0].astype(np.float32)  # as long, but turned
    rows[AT + 2, 1] *= 8
    rows[AT + 50] *= 10
    rows[60, 2] = np.nan
    loss = 1 + 0.01 * rng.normal(size=STEPS)
    loss[AT + 50] = 4
    scalars = {"loss": loss, "lr": np.full(STEPS, 0.1)}
    return stores.write_run(path, rows, scalars=scalars, flags=np.where(np.arange(STEPS) == 60, NONFINITE, 0), **more)


def plain(found: Events):
    """Departures of each event, with scores to six digits: changes of the pass are of float32."""
    rounded = [
        (d.series, d.of_group, d.step, f"{d.score:.4g} {d.ratio:.4g}") for e in found.found for d in e.series + e.groups
    ]
    return rounded, [(e.first_step, e.peak_step, e.kind, e.shares, e.rows) for e in found.found]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(eventful(tmp_path_factory.mktemp("run") / "run.zarr"))


@pytest.fixture(scope="module")
def result(run):
    return analyze(run, burn_in=5, window=100, cache=False)


def test_an_analysis_has_the_events_of_the_command(run, result):
    asked, found = find_events(run), Events.of(json.loads(result.attrs["events"]), run.where)
    assert plain(found) == plain(asked)
    assert [e.first.series for e in asked.found] == ["non-finite", "change", "norm"]
    assert (found.count, found.watched, found.unwatched) == (asked.count, asked.watched, asked.unwatched)


def test_document_and_dataset_have_them(run, result):
    document = to_json(result)["events"]
    asked = find_events(run).to_dict()
    assert [e["first_step"] for e in document["events"]] == result["event_first_step"].values.tolist() == [60, 150, 200]
    assert document.keys() == asked.keys() - {"schema", "path", "steps"}
    directions = {"cosine_previous", "cosine_mean", "like"}
    assert all(
        set(ours) == set(theirs) - directions for ours, theirs in zip(document["events"], asked["events"], strict=True)
    )
    assert np.isnan(result["event_score"].values[0])
    assert document["events"][0]["score"] is None
    meanings = result["event_kind"].attrs["flag_meanings"].split()
    assert [meanings[i] for i in result["event_kind"].values.astype(int)] == [
        "non-finite",
        "no_known_pattern",
        "one_batch",
    ]


def test_a_first_sentence_names_the_largest_event_and_says_where_to_look(result):
    document = to_json(result)
    first = findings(document)[0]  # a gradient that was lost comes before all
    assert (first.first, first.lost) == (True, True)
    assert first.text.startswith("3 events, the largest at step 60: NaN or inf in the gradient; first: NaN or inf")
    assert "gradlog info --step 60" in first.next_step
    group = next(iter(document["by_group"].values()))
    crowded = {
        **document,
        "by_group": {"a": {**group, "energy": 0.99 * document["energy"]}, "b": {**group, "energy": 0}},
    }
    assert [f.figure for f in findings(crowded)[:2]] == ["events", "heat_map"]
    skipped = [{**e, "skipped": e["last_step"] - e["first_step"] + 1} for e in document["events"]["events"]]
    mended = {**crowded, "events": {**document["events"], "events": skipped}}  # as a loss scaler does at the start
    assert findings(mended)[0].figure == "heat_map"


def test_a_report_names_the_same_first_series(run):
    assert [e.first.series for e in study(run, "run", cache=False).events.found] == ["non-finite", "change", "norm"]


def test_no_row_is_read_for_them(run, monkeypatch):
    def rows_read():
        seen = []
        with heard(lambda rows, _: seen.append(rows)):
            analyze(open_run(run.where), scheduler="synchronous", cache=False)
        return sum(seen)

    once = rows_read()
    monkeypatch.setattr(find.Watch, "spans", lambda self: iter(()))
    assert rows_read() == once


def test_pieces_do_not_change_them(run, monkeypatch):
    whole = find_events(run)
    monkeypatch.setattr(find, "PIECE", 16)
    monkeypatch.setattr("gradlog.analysis.reading.run.COLUMNS", 1)
    assert repr(find_events(run)) == repr(whole)  # NaN is not equal to itself


def test_one_step_reads_no_columns_of_others(run, monkeypatch):
    from gradlog.analysis import neighbours

    asked, columns = [], Run.columns
    monkeypatch.setattr(
        Run,
        "columns",
        lambda self, *a, first=0, stop=None, **k: (
            asked.append((first, stop)) or columns(self, *a, first=first, stop=stop, **k)
        ),
    )
    neighbours(run, AT)
    assert asked == [(AT - 64, AT + 4)]


def test_a_result_of_an_earlier_version_has_no_events(result):
    older = result.copy()
    older.attrs = {k: v for k, v in result.attrs.items() if k != "events"}
    document = to_json(older)
    assert "events" not in document
    assert all("stands out" not in f.text and "event" not in f.text for f in findings(document))


def test_windows_begin_anew_after_a_rewind(tmp_path):
    rows = np.random.default_rng(6).normal(size=(130, 2, 16))
    path = stores.write_rewound(tmp_path / "run.zarr", rows, 60, back=25)
    ds = analyze(open_run(path, view="all"), window=20, by_group=False, cache=False)
    assert ds["window_first_step"].values.tolist() == [0, 20, 40, 35, 55, 75]
    assert ((ds["window_last_step"] - ds["window_first_step"]) == 19).all()
