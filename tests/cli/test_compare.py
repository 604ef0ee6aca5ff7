"""``gradlog compare``: what it prints."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def two(make_run):
    return make_run(steps=60), make_run(steps=60, name="other.zarr")


def test_the_table_fits_a_terminal(call, two, samples):
    shown = call("compare", *two, samples / "cnn_digits_sgd.zarr")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["run", "T", "batch", "last", "ema(0.9)", "ema(0.99)", "trend"]
    assert lines[1].split()[0] == "run"
    assert "±" in lines[1]
    assert lines[2].split()[0] == "shuffled"


def test_analyze_shows_kappas_of_several_runs_as_compare_does(call, two):
    asked = [*two, "--predictor", "last", "--predictor", "trend"]
    compared, analyzed = (call(verb, *asked, "-q").out.splitlines() for verb in ("compare", "analyze"))
    kappas = [[line.split()[0], *line.split()[-2:]] for line in compared[1:5]]
    assert [cells[0] for cells in kappas] == ["run", "shuffled", "other", "shuffled"]
    assert all(cells in [line.split() for line in analyzed] for cells in kappas)


def test_equal_runs_never_part(call, two):
    shown = call("compare", *two)
    assert "not identical    never (bit by bit)" in shown.out
    assert "far apart        never (cosine surely below " in shown.out
    document = json.loads(call("compare", *two, "--format", "json", "--window", "20").out)
    assert document["schema"] == "gradlog.comparison/1"
    assert document["cosine"]["value"] == pytest.approx([1.0] * 60)
    assert len(document["runs"][1]["windows"]) == 3


@pytest.mark.parametrize(("form", "start"), [("csv", "run,steps"), ("markdown", "| run |"), ("latex", "% kappa")])
def test_formats(call, two, form, start):
    shown = call("compare", *two, "--format", form)
    assert shown.code == 0
    assert shown.out.startswith(start)
    assert shown.out.endswith("\n")


def test_epochs_are_told_to_every_run(call, two):
    known, anew = (
        json.loads(call("compare", *two, "--steps-per-epoch", n, "--format", "json").out) for n in ("5", "0")
    )
    told = json.loads(call("analyze", two[1], "--steps-per-epoch", "5", "--json").out)
    nulls = [[run["kappa"]["last"]["null"] for run in found["runs"]] for found in (known, anew)]
    assert nulls[0] == [told["kappa"]["last"]["null"]] * 2
    assert nulls[0] != nulls[1]


def test_plot_and_reference(call, two, tmp_path):
    target, reference = tmp_path / "figure.png", tmp_path / "paper.json"
    reference.write_text('{"source": "a paper", "rows": {"row": {"last": 2.0}}}')
    shown = call("compare", *two, "--window", "20", "--plot", target, "--reference", reference)
    assert shown.code == 0
    assert "row *" in shown.out
    assert "a paper, without intervals" in shown.out
    assert target.read_bytes()[1:4] == b"PNG"
    assert call("compare", *two, "--plot", target).code == 1
    bare = call("compare", two[0], "--plot", tmp_path / "bare.png")
    assert (bare.code, bare.out) == (1, "")
    assert "nothing to draw" in bare.err


def test_wrong_usage(call, two):
    assert call("compare").code == 2
    assert call("compare", two[0], "--format", "yaml").code == 2
    assert call("compare", two[0], "--predictor", "oracle").code == 2


def test_an_archive_is_expanded_and_a_bad_run_in_it_is_named(call, make_run, tmp_path):
    for i in range(3):
        make_run(steps=50 + i, name=f"runs/walk{i}.zarr")
    bad = tmp_path / "runs" / "walk1.zarr"
    (bad / "zarr.json").write_text("{")
    shown = call("compare", tmp_path / "runs", "--format", "json")
    assert shown.code == 1
    assert shown.err.startswith(f"gradlog: {bad}")
    document = json.loads(shown.out)
    assert [r["label"] for r in document["runs"]] == ["walk0", "walk2"]
    assert [f["path"] for f in document["failed"]] == [str(bad)]
    assert call("compare", f"{tmp_path}/runs/walk[02].zarr").code == 0
    none = call("compare", bad, tmp_path / "nothing.zarr")
    assert (none.code, none.out) == (3, "")
