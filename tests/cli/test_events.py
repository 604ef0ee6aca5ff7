"""``gradlog events`` and ``gradlog info --step``: what a reader sees."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.helpers import stores

AT = 150


@pytest.fixture
def spiked(tmp_path):
    rng = np.random.default_rng(0)
    rows = 1 + rng.normal(size=(200, 3, 16))
    loss = 1 + 0.02 * rng.normal(size=200)
    rows[AT] *= -9
    loss[AT] = 4
    return stores.write_run(tmp_path / "run.zarr", rows, scalars={"loss": loss, "lr": np.full(200, 0.1)})


def test_an_event_is_told_in_words(call, spiked):
    shown = call("events", spiked)
    assert shown.code == 0
    assert "1 event in 200 steps" in shown.out
    assert f"steps {AT} to {AT + 1}: like one odd batch" in shown.out
    assert f"loss at step {AT} (4.0 times" in shown.out
    assert all(len(line) <= 80 for line in shown.out.splitlines()[1:])


def test_the_document_is_that_of_python(call, spiked):
    from gradlog.analysis import find_events, open_run

    document = json.loads(call("events", spiked, "--json").out)
    assert document == json.loads(json.dumps(find_events(open_run(spiked)).to_dict()))


def test_a_run_without_events_says_what_was_watched(call, samples):
    shown = call("events", samples / "mlp_synth_adamw.zarr")
    assert "0 events in 2,000 steps" in shown.out
    assert "watched: loss, gradient norm" in shown.out


def test_one_step_beside_its_neighbours(call, spiked):
    shown = call("info", spiked, "--step", AT)
    assert f"{AT} <" in shown.out
    assert "-0." in shown.out  # it points back
    assert json.loads(call("info", spiked, "--step", AT, "--json").out)["step"] == AT


def test_of_a_step_that_was_recorded_twice_the_terminal_says_so(call, tmp_path):
    rows = np.random.default_rng(1).normal(size=(40, 2, 8))
    path = stores.write_rewound(tmp_path / "run.zarr", rows, 30, back=10)
    assert "2 rows of this view hold step 25" in call("info", path, "--step", 25, "--view", "all").out
    assert "rows of this view" not in call("info", path, "--step", 25).out


def test_what_cannot_be_shown_is_one_line(call, spiked, tmp_path):
    assert call("info", spiked, "--step", 4000).code == 3
    assert call("events", tmp_path / "nothing.zarr").code == 3
    assert call("events", spiked, "--window", 5).code == 2


def test_names_from_a_store_are_escaped(call, tmp_path):
    rows = np.random.default_rng(1).normal(size=(120, 2, 8))
    rows[100, 1] *= 40
    path = stores.write_run(tmp_path / "run.zarr", rows)
    meta = path / "zarr.json"
    meta.write_text(meta.read_text().replace('"g1"', '"g\\u001b[31m"'))
    for args in (["events", path], ["info", path, "--step", 100]):
        shown = call(*args)
        assert "\x1b[31m" not in shown.out + shown.err


def test_the_report_begins_with_the_event(call, spiked, tmp_path):
    page = tmp_path / "report.html"
    assert call("report", "-q", spiked, "-o", page).code == 0
    text = page.read_text()
    assert f"1 event at steps {AT} to {AT + 1}: like one odd batch; first: loss (4.0 times)" in text
    assert text.index("Did something odd happen, and where?") < text.index("How predictable is the next gradient?")
