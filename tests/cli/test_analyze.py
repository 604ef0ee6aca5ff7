"""``gradlog analyze``: what it prints and what it writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

import gradlog
from gradlog.analysis import analyze, open_run, to_json
from gradlog.analysis.measures.interpretation import verdict
from tests.helpers import stores

USUAL = ["zero", "last", "ema(0.9)", "ema(0.99)", "trend", "ar(8)", "best-ema"]


def test_json_is_what_the_library_says(call, samples):
    path = samples / "mlp_wine_exact.zarr"
    shown = call("analyze", path, "--json", "-q")
    assert (shown.code, shown.err) == (0, "")
    found = json.loads(shown.out)
    expected = to_json(analyze(open_run(path)))
    for volatile in ("predicted_memory", "bytes_read"):
        found["svd"].pop(volatile)
        expected["svd"].pop(volatile)
    assert found == expected
    assert found["schema"] == "gradlog.analysis/1"
    assert list(found["kappa"]) == USUAL
    assert list(found["by_group"]) == ["hidden", "head"]


def test_tables_show_the_numbers(call, samples, monkeypatch):
    monkeypatch.chdir(samples)
    true = json.loads((samples / "expected.json").read_text())["mlp_wine_exact"]
    shown = call("analyze", "mlp_wine_exact.zarr", "--by-group", "--full")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.split()[:1] == ["last"])
    assert row.split()[1] == f"{true['kappa']['last']:.3f}"
    assert next(line for line in lines if line.split()[:1] == ["0.05"]).split()[1] == str(true["rank"]["0.05"])
    assert any(line.split()[:1] == ["hidden"] for line in lines)
    assert "sketch 95 %" in shown.out
    assert "F_* = 0" in shown.out


def test_bounds_and_spectrum_are_shown_with_their_intervals(call, samples, monkeypatch):
    monkeypatch.chdir(samples)
    shown = call("analyze", "tiny_sort_rmsprop.zarr", "--full", "--predictor", "zero", "--predictor", "trend", "-q").out
    found = json.loads(call("analyze", "tiny_sort_rmsprop.zarr", "--predictor", "trend", "-q", "--json").out)
    assert max(map(len, shown.splitlines())) <= 80
    for kind, title in (("stationarity", "bound on the mean squared norm"), ("regret", "bound on the regret")):
        part = shown.split(title)[1]
        cells = next(line for line in part.splitlines() if line.split()[:1] == ["trend"]).split()
        sides = found["bounds"][kind]["trend"]
        ends = [sides[f"{side}{end}"] for side in ("right", "ratio") for end in ("", "_low", "_high")]
        assert [float(c) for c in cells[1:] if c != ".."] == pytest.approx(ends, rel=1e-3)
    assert "free of minibatch noise: not known" in shown
    lines = shown.splitlines()
    assert next(line for line in lines if line.startswith("  energy left  ")).endswith(".. 1.000")
    assert next(line for line in lines if line.startswith("  singular values  █")).endswith(".. 82.49")
    assert found["tail_energy"][0] == 1
    assert len(found["tail_energy"]) == len(found["singular_values"]) + 1


def test_a_spectrum_of_two_values_is_no_curve(call, make_run):
    assert "singular values" not in call("analyze", make_run(steps=2), "--full").out


def test_options_reach_the_analysis(call, make_run):
    path = make_run(steps=60)
    args = ("--predictor", "last", "--predictor", "ema(0.5)", "--eps", "0.2", "--burn-in", "10", "--by-group", "--json")
    found = json.loads(call("analyze", path, *args).out)
    assert list(found["kappa"]) == ["last", "ema(0.5)"]
    assert list(found["rank"]) == ["0.2"]
    assert found["burn_in"] == 10
    assert list(found["by_group"]) == ["a.weight", "b.weight"]


@pytest.mark.parametrize("suffix", [".json", ".nc", ".zarr"])
def test_output_files_hold_the_result(call, make_run, tmp_path, suffix):
    target = tmp_path / f"result{suffix}"
    path = make_run()
    shown = call("analyze", path, "-o", target, "--json")
    assert (shown.code, shown.err) == (0, "")
    printed = json.loads(shown.out)
    if suffix == ".json":
        assert json.loads(target.read_text()) == printed
    else:
        with xr.open_dataset(target, engine="h5netcdf" if suffix == ".nc" else "zarr") as ds:
            assert to_json(ds.load()) == printed
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([target.name, path.name])


@pytest.mark.parametrize("suffix", [".json", ".nc", ".zarr"])
def test_nothing_is_replaced_without_force(call, make_run, tmp_path, suffix):
    path, target = make_run(), tmp_path / f"result{suffix}"
    assert call("analyze", path, "-o", target).code == 0
    before = target.stat().st_mtime_ns
    again = call("analyze", path, "-o", target)
    assert again.code == 1
    assert again.err == f"gradlog: {target} exists; --force replaces it\n"
    assert again.out == ""
    assert target.stat().st_mtime_ns == before
    assert call("analyze", path, "-o", target, "--force").code == 0
    assert target.stat().st_mtime_ns > before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([target.name, path.name])


def test_force_never_replaces_a_recorded_run(call, make_run):
    path = make_run()
    shown = call("analyze", path, "-o", path, "--force")
    assert shown.code == 1
    assert "did not export" in shown.err
    assert open_run(path).info["steps"] == 40


def test_a_failing_write_leaves_the_old_result(call, make_run, tmp_path, monkeypatch):
    path, target = make_run(), tmp_path / "result.nc"
    assert call("analyze", path, "-o", target).code == 0
    before = target.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    shown = call("analyze", path, "-o", target, "--force")
    assert shown.code == 1
    assert shown.err == "gradlog: [Errno 28] No space left on device\n"
    assert target.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([target.name, path.name])


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--predictor", "oracle"], "--predictor"),
        (["--eps", "1.5"], "--eps"),
        (["--burn-in", "-1"], "--burn-in"),
        (["--memory", "lots"], "--memory"),
        (["-o", "result.txt"], ".json"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_usage(call, make_run, args, word):
    shown = call("analyze", make_run(), *args)
    assert shown.code == 2
    assert shown.out == ""
    assert word in shown.err


def test_memory_limit_is_refused_in_one_line(call, make_run):
    shown = call("analyze", make_run(), "--memory", "1M")
    assert shown.code == 1
    assert shown.err.startswith("gradlog: ")
    assert shown.err.count("\n") == 1


def test_noise_makes_no_difference_to_any_predictor(call, tmp_path):
    rng = np.random.default_rng(3)
    with gradlog.open(tmp_path / "noise.zarr", k="exact", on_error="raise") as log:
        for _ in range(400):
            log.step({"w": rng.standard_normal(300)})
    shown = call("analyze", tmp_path / "noise.zarr", "--predictor", "last", "--predictor", "ema(0.9)", "--full")
    rows = [line.split() for line in shown.out.splitlines() if line.split()[:1] in (["last"], ["ema(0.9)"])]
    assert [" ".join(row[-2:]) for row in rows[:2]] == ["no difference"] * 2
    assert "2 verdicts: without any order, about 1 in 20" in " ".join(shown.out.split())
    assert "no bounds" in shown.out
    assert "Order effect on all 2 predictors: no difference." in " ".join(shown.out.split())


def test_exact_runs_show_no_error_of_a_sketch(call, tmp_path):
    path = tmp_path / "r.zarr"
    with gradlog.open(path, like=np.zeros(6), k="exact", on_error="raise") as log:
        for row in np.random.default_rng(0).standard_normal((240, 6)):
            log.step(row)
    rows = [line.split() for line in call("analyze", path, "--full").out.splitlines()]
    assert ["predictor", "within", "the", "run"] in rows
    lines = [row for row in rows if row[:1] == ["last"]]
    assert (lines[0][2], len(lines[1])) == ("exact", 3)  # the errors: name, ±, half-width
    assert "±" not in call("compare", path).out.splitlines()[1]


def test_a_signal_from_lags_is_said_to_carry_the_sketch_s_error_alone(call, tmp_path):
    r = np.random.default_rng(0)
    turn = np.arange(60)[:, None] / 8
    G = 3 * (np.cos(turn) * r.standard_normal(400) + np.sin(turn) * r.standard_normal(400)) + r.standard_normal(
        (60, 400)
    )
    for k in (64, "exact"):
        with gradlog.open(tmp_path / f"{k}.zarr", like=G[0], k=k, on_error="raise") as log:
            for row in G:
                log.step(row)
    sketched, exact = (" ".join(call("analyze", tmp_path / f"{k}.zarr").out.split()) for k in (64, "exact"))
    assert "from lags, within the sketch's error only, if epochs are long" in sketched
    assert "from lags, if epochs are long" in exact


def test_verdict_words():
    kappa = {"value": 1.5, "low": 1.4, "high": 1.6, "null": 2.0, "gain": 0.25, "gain_low": 0.2, "gain_high": 0.3}
    assert verdict(kappa) == "helps"
    assert verdict({**kappa, "gain": -0.5, "gain_low": -0.6, "gain_high": -0.4}) == "hurts"
    assert verdict({**kappa, "gain": 0.03, "gain_low": -0.01}) == "no difference"
    assert verdict({**kappa, "gain_chance": 0.3}) == "no difference"
    small = {**kappa, "gain": 0.01, "gain_low": 0.005, "gain_high": 0.015}
    assert verdict(small) == "too small to matter"
    assert verdict({**small, "gain_floor": 0.003}) == "helps"
    assert verdict({**kappa, "gain": None}) == "-"


def test_plot_draws_a_file(call, make_run, tmp_path):
    target = tmp_path / "figure.svg"
    path = make_run()
    assert call("analyze", path, "--plot", target, "-q").code == 0
    assert target.read_text().startswith("<?xml")
    again = call("analyze", path, "--plot", target)
    assert (again.code, again.err) == (1, f"gradlog: {target} exists; --force replaces it\n")
    assert call("analyze", path, "--plot", tmp_path / "figure.gif").code == 2


def test_kappa_over_windows_is_drawn_within_80_columns(call, make_run):
    path = make_run(steps=200)
    shown = call("analyze", path, "--window", "20", "--prefixes", "4", "-q")
    lines = shown.out.splitlines()
    at = lines.index("in time, by window of steps")
    name, bars, low, _, high = lines[at + 1].split()
    values = [
        w["kappa"]["last"]["value"]
        for w in json.loads(call("analyze", path, "--window", "20", "--json").out)["windows"]
    ]
    assert (name, len(bars)) == ("last", 10)
    assert bars.index("█") == values.index(max(values))
    assert float(low) == pytest.approx(min(values), rel=1e-3)
    assert float(high) == pytest.approx(max(values), rel=1e-3)
    assert max(map(len, lines[1:])) <= 80  # the first names the run
    assert "▁" in lines[lines.index("as the run grows") + 1]


def test_a_loss_from_a_file_is_used_and_named(call, tmp_path):
    rows = np.random.default_rng(0).standard_normal((40, 2, 8))
    path = stores.write_run(tmp_path / "run.zarr", rows, scalars={"lr": np.full(40, 0.1)})
    table = tmp_path / "history.csv"
    table.write_text("step,train/loss\n" + "".join(f"{i},{3 - i / 40}\n" for i in range(40)))
    shown = call("analyze", path, "--full", "--scalars", f"{table}:train/loss")
    assert shown.code == 0
    assert "F_0 = 3.000 (joined)" in " ".join(shown.out.split())
    assert "40 of 40 steps have a loss" in " ".join(shown.out.split())
    wrong = call("analyze", path, path, "--scalars", table)
    assert (wrong.code, "--scalars belongs to one run" in wrong.err) == (2, True)
    assert "40 of 40 steps have a loss" in " ".join(call("events", path, "--scalars", table).out.split())
    none = call("events", path, "--scalars", f"{table}:accuracy")
    assert (none.code, none.err.count("\n")) == (1, 1)
    assert call("report", path, "--scalars", table, "-o", tmp_path / "page.html").code == 0
    assert "40 of 40 steps have a loss" in (tmp_path / "page.html").read_text()
