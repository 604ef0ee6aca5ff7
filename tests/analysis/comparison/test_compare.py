"""Several runs in one table, and two runs step by step."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

import gradlog
from gradlog.analysis import analyze, open_run
from gradlog.analysis.comparison import tables
from gradlog.analysis.comparison.compare import compare, to_document
from gradlog.analysis.comparison.divergence import Cosines, cosines
from gradlog.analysis.measures.cosines import cosine_intervals
from gradlog.errors import SpecMismatchError, TooFewStepsError
from tests.helpers import stores


def walk(path, steps=60, part=None, seed=0, sketch_seed=0, k=64):
    """Two runs with the same seed are the same until step ``part``, and independent from there."""
    rng, other = np.random.default_rng(0), np.random.default_rng(seed + 1)
    like = {"a.weight": np.zeros(300), "b.weight": np.zeros(200)}
    with gradlog.open(path, like=like, k=k, seed=sketch_seed, chunk=16, groups="tensors", on_error="raise") as log:
        for t in range(steps):
            grads = {n: rng.standard_normal(v.shape) for n, v in like.items()}
            if part is not None and t >= part:
                grads = {n: other.standard_normal(v.shape) for n, v in like.items()}
            log.step(grads, loss=1.0, lr=0.1, batch_size=32)
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return walk(folder / "one.zarr"), walk(folder / "two.zarr", part=37)


def test_the_step_where_two_runs_part(pair):
    one, two = map(open_run, map(str, pair))
    found = cosines(one, two)
    assert found.steps.tolist() == list(range(60))
    assert found.first_difference == found.parted == 37
    np.testing.assert_allclose(found.value[:37], 1)
    np.testing.assert_allclose(found.low[:37], 1)
    assert np.abs(found.value[37:]).max() < 0.4
    assert (found.low <= found.value).all()
    same = cosines(one, one)
    assert same.first_difference is same.parted is None


def test_cosines_of_exact_rows_are_a_loop_over_rows(tmp_path):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((2, 40, 2, 5)).astype(np.float32)
    rows[1, 7] = 0
    a, b = (open_run(str(stores.write_run(tmp_path / f"{i}.zarr", rows[i], exact=True))) for i in range(2))
    found = cosines(a, b)
    for t in range(40):
        u, v = rows[0, t].ravel().astype(float), rows[1, t].ravel().astype(float)
        norms = np.linalg.norm(u) * np.linalg.norm(v)
        expected = u @ v / norms if norms else np.nan
        np.testing.assert_allclose([found.value[t], found.low[t], found.high[t]], expected, rtol=1e-6)


def test_only_common_finite_steps_are_compared(tmp_path):
    rows = np.random.default_rng(2).standard_normal((30, 1, 8))
    flags = np.zeros(20, np.uint32)
    flags[4] = 1
    bad = rows[:20].copy()
    bad[4] = np.nan
    a = open_run(str(stores.write_run(tmp_path / "a.zarr", bad, steps=np.arange(10, 30), flags=flags)))
    b = open_run(str(stores.write_run(tmp_path / "b.zarr", rows)))
    found = cosines(a, b)
    assert found.steps.tolist() == [t for t in range(10, 30) if t != 14]
    late = stores.write_run(tmp_path / "c.zarr", rows, steps=np.arange(100, 130))
    with pytest.raises(TooFewStepsError, match="no finite step in common"):
        cosines(b, open_run(str(late)))


def test_intervals_cover_the_true_cosine():
    """Sketches of two fixed vectors of known angle, many seeds."""
    rng = np.random.default_rng(3)
    d, k, true = 400, 64, 0.6
    x = rng.standard_normal(d)
    z = rng.standard_normal(d)
    z -= x * (x @ z) / (x @ x)
    y = true * x / np.linalg.norm(x) + np.sqrt(1 - true**2) * z / np.linalg.norm(z)
    S = rng.standard_normal((300, k, d)) / np.sqrt(k)
    X, Y = ((S @ v)[:, None, :].astype(np.float32) for v in (x, y))
    _, low, high = cosine_intervals(X, Y, exact=[False])
    assert 0.9 <= ((low <= true) & (true <= high)).mean() <= 0.99


def test_parting_needs_three_steps_in_a_row():
    def at(high):
        h = np.array(high, float)
        return Cosines(np.arange(len(h)) * 10, h, h, h, h == 1).parted

    assert at([1, 0.5, 1, 0.5, 0.5, 1, 0.2, 0.1, 0.3]) == 60
    assert at([1, 0.5, 0.5]) is None
    assert at([0.5, np.nan, 0.5, 0.5]) is None
    assert at([0.1]) is None


@pytest.mark.parametrize(
    ("change", "word"), [({"sketch_seed": 1}, "their seed: 0 and 1"), ({"k": 32}, "their k: 64 and 32")]
)
def test_other_maps_are_refused(pair, tmp_path, change, word):
    other = open_run(str(walk(tmp_path / "other.zarr", **change)))
    with pytest.raises(SpecMismatchError, match=word):
        cosines(open_run(str(pair[0])), other)


def test_the_table_holds_the_numbers_of_the_analysis(pair, tmp_path):
    reference = tmp_path / "paper.json"
    reference.write_text(
        json.dumps(
            {"source": "the paper, table 1", "rows": {"MLP": {"last": 1.713, "trend": None}, "one": {"last": 2}}}
        )
    )
    found = compare(pair, window=20, reference=reference)
    expected = analyze(str(pair[0]))
    for p in found.predictors:
        assert found.rows[0].kappa[p]["value"] == pytest.approx(float(expected["kappa"].sel(predictor=p)), rel=1e-6)
    document = to_document(found)
    json.dumps(document, allow_nan=False)
    assert [r["label"] for r in document["runs"]] == ["one", "two"]
    assert [w["first_step"] for w in document["runs"][0]["windows"]] == [0, 20, 40]
    assert document["runs"][0]["batch"] == 32
    assert document["cosine"]["parted"] == 37
    assert document["reference"]["rows"] == {"MLP": {"last": 1.713}, "one": {"last": 2.0}}
    columns, rows = tables.grid(found)
    assert columns[:3] == ["run", "T", "batch"]
    assert [row[0] for row in rows] == ["one", "  shuffled", "  published *", "two", "  shuffled", "MLP *"]
    assert rows[2][3:] == ["2.000", "–", "–", "–"]
    assert rows[-1][3:] == ["1.713", "–", "–", "–"]
    value, spread = rows[0][3].split(" ±")
    last = found.rows[0].kappa["last"]
    assert float(value) == pytest.approx(last["value"], abs=6e-4)
    assert float(spread) == pytest.approx((last["high"] - last["low"]) / 2, abs=6e-4)
    assert "the paper, table 1" in tables.footnote(found)


def test_csv_is_the_numbers_to_the_last_digit(pair):
    found = compare(pair)
    lines = list(csv.DictReader(io.StringIO(tables.text_csv(found))))
    assert len(lines) == 8
    for line in lines:
        row = next(r for r in found.rows if r.label == line["run"])
        for field in tables.FIELDS:
            name = "kappa" if field == "value" else field
            assert float(line[name]) == row.kappa[line["predictor"]][field]


def test_labels_cannot_break_out_of_a_table(pair, tmp_path):
    odd = tmp_path / "=cmd|a_b%&#{}\\.zarr"
    pair[0].rename(odd)
    try:
        found = compare([odd])
    finally:
        odd.rename(pair[0])
    line = tables.markdown(found).splitlines()[2]
    assert line.count(" | ") == 6
    assert r"=cmd\|a\_b" in line
    assert r"=cmd|a\_b\%\&\#\{\}\textbackslash{}" in tables.latex(found)
    assert tables.text_csv(found).splitlines()[1].startswith("'=cmd|")


def test_what_cannot_be_compared_is_said(pair, tmp_path):
    other = walk(tmp_path / "other.zarr", sketch_seed=5)
    found = compare([pair[0], other])
    assert found.cosines is None
    assert "differ in their seed: 0 and 5; their rows" in found.note
    assert to_document(found)["note"] == found.note
    assert compare([pair[0]]).note == ""
    with pytest.raises(ValueError, match="at least one run"):
        compare([])
    bad = tmp_path / "bad.json"
    bad.write_text("[1, 2]")
    with pytest.raises(ValueError, match="not a reference of the form"):
        compare([pair[0]], reference=bad)
