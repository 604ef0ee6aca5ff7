"""Many runs: found, analyzed, remembered, gathered; what fails is listed."""

from __future__ import annotations

import json
import shutil
import threading

import dask
import numpy as np
import pytest
import xarray as xr

import gradlog
from gradlog.analysis import Linear, analyze, analyze_each, analyze_many, open_run
from gradlog.analysis.comparison.find import find
from gradlog.analysis.results import analyze as results
from gradlog.analysis.results.analyze import measure
from gradlog.analysis.results.forms.dataset import to_dataset
from gradlog.analysis.results.forms.labelled_arrays import LabelledArrays
from gradlog.analysis.results.options import Options
from gradlog.cli import main
from gradlog.errors import NotARunError


@pytest.fixture
def runs(tmp_path, record):
    """Four runs of several lengths, groups and depths, among things that are none."""
    folder = tmp_path / "runs"
    record(folder / "a.zarr", 0, 90)
    record(folder / "b.zarr", 0, 50, seed=1)
    record(folder / "deep" / "er" / "c.zarr", 0, 70, groups="all")
    record(folder / "d.zarr", 0, 60, seed=2)
    (folder / "notes.txt").write_text("")
    (folder / ".hidden").mkdir()
    shutil.copytree(folder / "a.zarr", folder / ".hidden" / "x.zarr")
    return folder


@pytest.fixture
def passes(monkeypatch):
    """Paths of the runs that are really analyzed."""
    seen = []

    def counted(run, options):
        seen.append(run.where)
        return measure(run, options)

    monkeypatch.setattr(results, "measure", counted)
    return seen


def names(found):
    return sorted(p.rsplit("/", 1)[1] for p in found)


def test_finds_runs_in_folders_patterns_and_lists(runs, tmp_path, monkeypatch):
    assert names(find(runs)[0]) == ["a.zarr", "b.zarr", "c.zarr", "d.zarr"]
    assert names(find(f"{runs}/[ab].zarr")[0]) == ["a.zarr", "b.zarr"]
    assert names(find(f"{runs}/**/c.zarr")[0]) == ["c.zarr"]
    assert find([runs / "b.zarr", runs / "a.zarr"])[0] == [str(runs / "b.zarr"), str(runs / "a.zarr")]
    assert len(find([runs, runs / "a.zarr", f"{runs}/"])[0]) == 4
    monkeypatch.chdir(tmp_path)
    assert find("runs/*.zarr")[0] == ["runs/a.zarr", "runs/b.zarr", "runs/d.zarr"]
    found, failed = find(["nothing", f"{runs}/*.none", runs / ".hidden" / "x.zarr"])
    assert names(found) == ["x.zarr"]
    assert [f.type for f in failed] == ["NotARunError", "NotARunError"]


def test_one_dataset_with_the_numbers_of_each(runs):
    ds = analyze_many(runs, window=20)
    assert ds.sizes["run"] == 4
    assert ds.attrs["schema"] == "gradlog.archive/1"
    assert json.loads(ds.attrs["failed"]) == []
    assert json.loads(ds.attrs["runs"]) == ds.run.values.tolist()
    for path in ds.run.values:
        alone, here = analyze(path, window=20), ds.sel(run=path)
        for name, variable in alone.data_vars.items():
            found = here[name]
            assert found.attrs == variable.attrs
            for dim, size in variable.sizes.items():
                if dim in ("group", "predictor", "eps"):
                    found = found.sel({dim: variable[dim]})
                elif dim == "path_step":
                    found = found.isel(path_place=slice(size))
                else:
                    found = found.isel({dim: slice(size)})
            np.testing.assert_array_equal(found.values, variable.values, err_msg=name)
        steps = alone.path_step.values
        np.testing.assert_array_equal(here.path_step.values[: len(steps)], steps)
        assert np.isnan(here.path_step.values[len(steps) :]).all()


@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_the_dataset_is_saved_and_comes_back(runs, tmp_path, kind):
    ds = analyze_many(runs)
    if kind == "nc":
        ds.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        back = xr.load_dataset(tmp_path / "a.nc")
    else:
        ds.to_zarr(tmp_path / "a.zarr", consolidated=False)
        back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False).load()
    xr.testing.assert_identical(back, ds)


def test_a_second_call_computes_nothing(runs, passes, tmp_path, record):
    first = analyze_many(runs)
    assert len(passes) == 4
    passes.clear()
    xr.testing.assert_identical(analyze_many(runs), first)
    assert passes == []
    record(runs / "b.zarr", 50, 60, seed=1)
    assert float(analyze_many(runs).rows.sel(run=str(runs / "b.zarr"))) == 60
    assert names(passes) == ["b.zarr"]
    passes.clear()
    moved = shutil.move(runs, tmp_path / "moved")
    again = analyze_each(moved)
    assert passes == []
    for path, result in again.results.items():
        assert json.loads(result.attrs["run"])["path"] == path
        xr.testing.assert_identical(result, analyze(path).assign_attrs({k: result.attrs[k] for k in
                                    ("cached_rows", "predicted_memory")}))  # fmt: skip


def test_other_options_and_views_are_other_questions(runs, passes):
    for options in ({}, {"window": 20}, {"eps": [0.2]}, {"view": "all"}, {"burn_in": 3}, {"predictors": ["last"]}):
        passes.clear()
        analyze_many(runs / "a.zarr", **options)
        assert len(passes) == 1
    passes.clear()
    own = Linear("two", (0.5, 0.5))  # has no plain form: not remembered
    for _ in range(2):
        analyze_many(runs / "a.zarr", predictors=[own])
    assert len(passes) == 2


def test_without_a_cache_nothing_is_kept(runs, passes, cache_folder):
    for _ in range(2):
        analyze_many(runs / "a.zarr", cache=False)
    assert len(passes) == 2
    assert not cache_folder.exists()


def test_failures_are_listed_and_stop_nothing(runs, passes):
    record_of_b = runs / "b.zarr" / "seg-000000-r0000" / "zarr.json"
    record_of_b.write_bytes(record_of_b.read_bytes().replace(b'"rows":50', b'"rows":40'))
    (runs / "d.zarr" / "seg-000000-r0000" / "sketch" / "c.1.0.0").unlink()
    (runs / "broken.zarr").mkdir()
    (runs / "broken.zarr" / "zarr.json").write_text("{")
    found = analyze_each([runs, "nothing.zarr"])
    assert names(found.results) == ["a.zarr", "c.zarr"]
    said = {f.path.rsplit("/", 1)[-1]: f for f in found.failed}
    assert {name: f.type for name, f in said.items()} == {
        "nothing.zarr": "NotARunError", "b.zarr": "CorruptRunError", "d.zarr": "CorruptRunError",
        "broken.zarr": "CorruptRunError"}  # fmt: skip
    assert "digest" in said["b.zarr"].error
    assert "missing" in said["d.zarr"].error
    assert len(found.document()["failed"]) == 4


def test_a_wrong_option_is_the_callers(runs):
    with pytest.raises(ValueError, match="eps must be"):
        analyze_many(runs, eps=[2.0])
    with pytest.raises(NotARunError):
        analyze_many([])


def test_nothing_but_failures_is_an_archive_too(tmp_path):
    ds = analyze_many(tmp_path / "none")
    assert ds.sizes["run"] == 0
    assert json.loads(ds.attrs["failed"])[0]["type"] == "NotARunError"


def test_goes_on_after_an_interrupt(runs, passes, monkeypatch):
    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze_many(runs, progress=interrupt, scheduler="synchronous")
    assert len(passes) == 2
    passes.clear()
    assert analyze_many(runs, scheduler="synchronous").sizes["run"] == 4
    assert len(passes) == 2


def test_runs_are_analyzed_at_the_same_time(runs, monkeypatch):
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(results, "measure", lambda run, options: (both.wait(), measure(run, options))[1])
    with dask.config.set(num_workers=2):
        assert analyze_many(runs).sizes["run"] == 4


def test_a_run_that_grows_meanwhile_is_remembered_as_what_was_read(tmp_path, record, monkeypatch, passes):
    path = record(tmp_path / "r.zarr", 0, 40)

    def slow(run, options):
        record(path, 40, 60)
        return measure(run, options)

    monkeypatch.setattr(results, "measure", slow)
    assert int(analyze_many(path).rows[0]) == 40
    monkeypatch.setattr(results, "measure", measure)
    assert int(analyze_many(path).rows[0]) == 60
    shutil.rmtree(path / "seg-000001-r0000")
    passes.clear()
    assert int(analyze_many(path).rows[0]) == 40
    assert passes == []


def test_results_survive_as_plain_arrays(runs):
    for options in ({}, {"window": 20, "components": 2, "prefixes": 2}):
        result = measure(open_run(runs / "a.zarr"), Options.of(**options))
        again = LabelledArrays.from_arrays(result.to_arrays())
        xr.testing.assert_identical(to_dataset(again), to_dataset(result))


def run_command(capsys, *arguments):
    with pytest.raises(SystemExit) as done:
        main(["analyze", *map(str, arguments), "-q"])
    captured = capsys.readouterr()
    return int(done.value.code or 0), captured.out, captured.err


def test_command_line(runs, capsys, tmp_path):
    code, out, err = run_command(capsys, runs)
    assert (code, err) == (0, "")
    assert out.startswith("4 runs\n")
    first = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert [first.count(name) for name in "abcd"] == [2, 2, 2, 2]  # kappa and rank
    assert max(map(len, out.splitlines())) <= 100
    code, out, err = run_command(capsys, f"{runs}/*.zarr", "none.zarr", "--json", "-o", tmp_path / "all.zarr")
    document = json.loads(out)
    assert code == 1
    assert err == "gradlog: none.zarr: no such file or folder\n"
    assert document["schema"] == "gradlog.archive/1"
    assert [r["run"]["path"] for r in document["runs"]] == [str(runs / f"{c}.zarr") for c in "abd"]
    assert document["runs"][0]["schema"] == "gradlog.analysis/1"
    assert document["failed"] == [{"path": "none.zarr", "error": "no such file or folder", "type": "NotARunError"}]
    assert xr.open_zarr(tmp_path / "all.zarr").sizes["run"] == 3
    code, _out, _err = run_command(capsys, runs, "--json", "-o", tmp_path / "all.zarr", "--force")
    assert code == 0
    assert xr.open_zarr(tmp_path / "all.zarr").sizes["run"] == 4


def test_command_line_of_one_run_stays_what_it_was(runs, capsys, cache_folder):
    code, out, _err = run_command(capsys, runs / "a.zarr", "--json", "--no-cache")
    assert code == 0
    assert not cache_folder.exists()
    alone = json.loads(out)
    assert alone["schema"] == "gradlog.analysis/1"
    for _ in range(2):
        _code, out, _err = run_command(capsys, runs / "a.zarr", "--json")
        again = json.loads(out)
        again["svd"]["predicted_memory"] = alone["svd"]["predicted_memory"]
        assert again == alone
    assert cache_folder.exists()
    assert run_command(capsys, "nothing.zarr")[0] == 3
    assert run_command(capsys, f"{runs}/none-*.zarr")[0] == 1


def test_an_empty_run_fails_alone(tmp_path, record):
    record(tmp_path / "a.zarr", 0, 30)
    with gradlog.open(tmp_path / "b.zarr", like={"a": np.zeros(3)}, k=4) as log:
        log.step({"a": np.ones(3)})
    found = analyze_each(str(tmp_path / "*.zarr"))
    assert [f.type for f in found.failed] == ["TooFewStepsError"]
    assert found.failed[0].error.startswith(str(tmp_path / "b.zarr"))
