"""``gradlog export``: where it goes and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from gradlog.analysis import open_run


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("netcdf", "run.nc"),
        ("zarr", "run.rows.zarr"),
        ("parquet", "run.parquet"),
        ("csv", "run.csv"),
        ("npz", "run.npz"),
    ],
)
def test_names_and_force(call, make_run, tmp_path, monkeypatch, form, name):
    monkeypatch.chdir(tmp_path)
    path = make_run()
    shown = call("export", path, "--to", form)
    assert (shown.code, shown.out, shown.err) == (0, f"{name}\n", "")
    again = call("export", path, "--to", form)
    assert (again.code, again.err) == (1, f"gradlog: {name} exists; --force replaces it\n")
    assert call("export", path, "--to", form, "--force").code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["run.zarr", name])


def test_a_recorded_run_is_never_replaced(call, make_run):
    path = make_run()
    shown = call("export", path, "--to", "zarr", "-o", path, "--force")
    assert shown.code == 1
    assert "did not export" in shown.err
    assert open_run(str(path)).info["steps"] == 40


def test_results_by_window(call, make_run, tmp_path):
    target = tmp_path / "result.nc"
    assert call("export", make_run(), "--to", "netcdf", "--what", "result", "--window", "10", "-o", target).code == 0
    with xr.open_dataset(target, engine="h5netcdf") as ds:
        assert ds.sizes["window"] == 4


def test_without_the_sketch(call, make_run, tmp_path):
    target = tmp_path / "rows.npz"
    assert call("export", make_run(), "--to", "npz", "--no-sketch", "-o", target).code == 0
    with np.load(target) as z:
        assert "sketch" not in z
        assert len(z["step"]) == 40


def test_wrong_usage(call, make_run):
    assert call("export", make_run()).code == 2
    assert call("export", make_run(name="b.zarr"), "--to", "hdf4").code == 2


def test_a_tracker_gets_the_result(call, make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = call("export", make_run(), "--to", "tensorboard", "--window", "10", "-q")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("run.tensorboard/events.out.tfevents.")
    assert (tmp_path / shown.out.strip()).stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "tensorboard", "--what", "rows"], "writes the result"),
        (["--to", "wandb", "--no-sketch"], "writes the result"),
        (["--to", "csv", "--project", "p"], "go with --to wandb, mlflow or trackio"),
        (["--to", "npz", "--into", "x"], "go with --to wandb, mlflow or trackio"),
    ],
)
def test_options_that_would_be_ignored_are_wrong_usage(call, make_run, options, said):
    shown = call("export", make_run(), *options)
    assert shown.code == 2
    assert said in shown.err
