"""Round trips: what another tool reads back is what was recorded, or measured."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr

from gradlog.analysis import analyze, open_run
from gradlog.analysis.reading import rows
from gradlog.analysis.results.forms.export import export_result, export_rows
from gradlog.errors import MissingDependencyError, TooFewStepsError
from tests.helpers import stores

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
FORMS = ["netcdf", "zarr", "parquet", "csv", "npz"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rows = np.random.default_rng(0).standard_normal((45, 3, 8)) * np.logspace(-30, 3, 45)[:, None, None]
    flags = np.zeros(45, np.uint32)
    flags[7] = 1
    rows[7, 0, 0] = np.nan
    scalars = {"loss": np.geomspace(1, 1e-9, 45), "step": np.arange(45.0)}
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    return open_run(str(stores.write_run(path, rows, flags=flags, scalars=scalars, steps=np.arange(45) + 100)))


def read_rows(path, form):
    """(sketch or None, norms, steps, loss) as other tools see them."""
    if form in ("netcdf", "zarr"):
        with xr.open_dataset(path, engine="h5netcdf" if form == "netcdf" else "zarr") as ds:
            sketch = ds["sketch"].values if "sketch" in ds else None
            return sketch, ds["group_norm2"].values, ds["step"].values, ds["loss"].values
    if form == "npz":
        with np.load(path) as z:
            return z.get("sketch"), z["group_norm2"], z["step"], z["loss"]
    names = ["g0", "g1", "g2"]
    if form == "parquet":
        table = pq.read_table(path)
        norms = np.stack([table[f"norm2:{g}"].to_numpy() for g in names], 1)
        lists = [np.stack(table[f"sketch:{g}"].to_numpy()) for g in names if f"sketch:{g}" in table.column_names]
        sketch = np.stack(lists, 1) if lists else None
        return sketch, norms, table["step"].to_numpy(), table["loss"].to_numpy()
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    norms = np.array([[float(line[f"norm2:{g}"]) for g in names] for line in lines])
    cells = [
        [[np.float32(line[f"sketch:{g}:{i}"]) for i in range(8)] for g in names]
        for line in lines
        if "sketch:g0:0" in line
    ]
    steps, loss = (np.array([float(line[c]) for line in lines]) for c in ("step", "loss"))
    return (np.array(cells) if cells else None), norms, steps, loss


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sketch", [True, False])
def test_rows_come_back(run, tmp_path, form, sketch, monkeypatch):
    monkeypatch.setattr(rows, "BUFFER_BYTES", 1)  # several blocks
    target = tmp_path / "out"
    export_rows(run, target, form, sketch)
    found, norms, steps, loss = read_rows(target, form)
    np.testing.assert_array_equal(steps, run.steps)
    np.testing.assert_array_equal(norms, run.group_norm2)
    np.testing.assert_array_equal(loss, run.scalar_columns["loss"])
    if sketch:
        np.testing.assert_array_equal(found, run.sketch.compute())
    else:
        assert found is None


def test_a_scalar_named_like_a_column_keeps_its_own(run, tmp_path):
    export_rows(run, tmp_path / "out.parquet", "parquet", sketch=False)
    table = pq.read_table(tmp_path / "out.parquet")
    np.testing.assert_array_equal(table["scalar:step"].to_numpy(), np.arange(45.0))
    assert json.loads(table.schema.metadata[b"gradlog"])["steps"] == 45


ODD = [
    "train/loss",
    "sketch:g0",
    "lr/1",
    "lr_1",
    "../../../evil",
    "/evil",
    "=1+1",
    "step",
    "sketch",
    "norm2:g0",
    ".",
    "..",
    "",
    "\ud800",
    "a b\n",
    "a\0b",
    "é" * 200,
]


@pytest.fixture(scope="module")
def oddly_named(tmp_path_factory):
    rows = np.random.default_rng(1).standard_normal((10, 2, 4))
    scalars = {name: np.arange(10.0) + i for i, name in enumerate(ODD)}
    return open_run(str(stores.write_run(tmp_path_factory.mktemp("odd") / "run.zarr", rows, scalars=scalars)))


@pytest.mark.parametrize("form", ["netcdf", "zarr", "npz"])
def test_scalars_of_any_name_come_back_under_one_that_is_portable(oddly_named, tmp_path, form):
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    export_rows(oddly_named, folder / "out", form)
    if form == "npz":
        with np.load(folder / "out") as z:
            originals = json.loads(str(z["original_names"]))
            values = {name: z[name] for name in z.files if z[name].dtype.kind == "f"}
    else:
        with xr.open_dataset(folder / "out", engine="h5netcdf" if form == "netcdf" else "zarr") as ds:
            originals = {str(v): ds[v].attrs["original_name"] for v in ds.data_vars if "original_name" in ds[v].attrs}
            values = {str(v): ds[v].values for v in ds.data_vars}
    for i, name in enumerate(ODD):
        kept = name.replace("\0", r"\x00").encode("utf-8", "backslashreplace").decode()
        label = next((new for new, old in originals.items() if old == kept), kept)
        np.testing.assert_array_equal(values[label], np.arange(10.0) + i)
    assert sorted(p.name for p in tmp_path.rglob("*") if "evil" in p.name and "out" not in p.parts) == []
    assert not any("/" in name for name in values)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_scalars_of_any_name_come_back_in_a_table(oddly_named, tmp_path, form):
    export_rows(oddly_named, tmp_path / "out", form, sketch=False)
    if form == "csv":
        with (tmp_path / "out").open(newline="", encoding="utf-8") as file:
            names, *lines = csv.reader(file)
        first = dict(zip(names, lines[0], strict=True))
        assert "'=1+1" in names  # a spreadsheet would compute it
    else:
        table = pq.read_table(tmp_path / "out")
        names, first = table.column_names, {name: table[name][0].as_py() for name in table.column_names}
    assert len(set(names)) == len(names)
    shown = {
        "step": "scalar:step",
        "norm2:g0": "scalar:norm2:g0",
        "sketch:g0": "scalar:sketch:g0",
        "": "scalar:",
        "\ud800": "\\ud800",
        "a\0b": r"a\x00b",
    }
    for i, name in enumerate(ODD):
        label = shown.get(name, name)
        assert float(first["'" + label if form == "csv" and label.startswith("=") else label]) == i


def test_a_dataset_of_a_run_can_be_written_by_xarray_itself(oddly_named, tmp_path):
    oddly_named.to_xarray().to_netcdf(tmp_path / "out.nc", engine="h5netcdf")
    assert oddly_named.scalars["lr_1"].attrs["original_name"] == "lr/1"


@pytest.mark.parametrize("form", FORMS)
def test_results_come_back(run, tmp_path, form):
    ds = analyze(run, window=15)
    target = tmp_path / "out"
    export_result(ds, target, form)
    kappa = ds["window_kappa"].sel(predictor="last").values
    curve = ds["singular_value"].values
    if form in ("netcdf", "zarr"):
        with xr.open_dataset(target, engine="h5netcdf" if form == "netcdf" else "zarr") as back:
            xr.testing.assert_identical(back.load(), ds)
        return
    if form == "npz":
        with np.load(target) as z:
            np.testing.assert_array_equal(z["window_kappa"], ds["window_kappa"].values)
            assert z["predictor"].tolist() == ds["predictor"].values.tolist()
            assert json.loads(str(z["attrs"]))["title"] == "gradlog analysis"
        return
    if form == "csv":
        with target.open(newline="") as file:
            lines = list(csv.DictReader(file))
    else:
        lines = pq.read_table(target).to_pylist()
    assert len(lines) == sum(int(v.size) for v in ds.data_vars.values())
    by_window = [float(x["value"]) for x in lines if x["variable"] == "window_kappa" and x["predictor"] == "last"]
    np.testing.assert_array_equal(by_window, kappa)
    modes = {int(x["mode"]): float(x["value"]) for x in lines if x["variable"] == "singular_value"}
    np.testing.assert_array_equal([modes[i] for i in range(len(curve))], curve)


def test_parquet_without_pyarrow_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'gradlog-zarr\[parquet\]'"):
        export_rows(run, tmp_path / "out.parquet", "parquet")
    assert list(tmp_path.iterdir()) == []


def test_refusals(run, tmp_path):
    with pytest.raises(ValueError, match="form must be one of"):
        export_rows(run, tmp_path / "x", "hdf4")
    with pytest.raises(ValueError, match="form must be one of"):
        export_result(analyze(run), tmp_path / "x", "hdf4")
    empty = open_run(str(stores.write_run(tmp_path / "empty.zarr", np.empty((0, 1, 4)))))
    with pytest.raises(TooFewStepsError):
        export_rows(empty, tmp_path / "x", "csv")


@pytest.mark.parametrize("form", FORMS)
def test_updates_beside_gradients_are_written_too(tmp_path, form):
    run = open_run(GOLDEN / "updates.zarr")
    truth = run.updates.read(0, run.n_steps).reshape(run.n_steps, run.n_groups, run.k)
    target = tmp_path / f"out.{form}"
    export_rows(run, target, form)
    if form in ("netcdf", "zarr"):
        with xr.open_dataset(target, engine="h5netcdf" if form == "netcdf" else "zarr") as ds:
            found = ds["update"].values
    elif form == "npz":
        with np.load(target) as z:
            found = z["update"]
    elif form == "parquet":
        found = np.stack([np.stack(pq.read_table(target)[f"update:{g}"].to_numpy()) for g in run.groups], 1)
    else:
        with target.open(newline="") as file:
            lines = list(csv.DictReader(file))
        names = [f"update:{g}:{i}" for g in run.groups for i in range(run.k)]
        found = np.array([[np.float32(line[n]) for n in names] for line in lines]).reshape(truth.shape)
    np.testing.assert_array_equal(found, truth)
    export_rows(run, tmp_path / f"bare.{form}", form, sketch=False)
