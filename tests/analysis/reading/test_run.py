"""Opening runs: views of segments and ranks, live journals, any storage, and damage of every kind."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gradlog.analysis import analyze, open_run
from gradlog.errors import (
    CorruptRunError,
    NewerFormatError,
    NotARunError,
    SpecMismatchError,
    StoreUnavailableError,
    TooFewStepsError,
)
from gradlog.format.names import META
from tests.helpers import stores


def rows(T, seed=0, groups=2, k=8):
    return np.random.default_rng(seed).standard_normal((T, groups, k)).astype(np.float32)


def test_info_and_lazy_arrays(tmp_path):
    X = rows(50)
    path = stores.write_run(tmp_path / "r.zarr", X, scalars={"loss": np.arange(50.0)}, every=3)
    run = open_run(path)
    info = json.loads(json.dumps(run.info))
    assert (info["steps"], info["first_step"], info["last_step"], info["every"]) == (50, 0, 147, 3)
    assert (info["k"], info["groups"], info["status"], info["dimension"]) == (8, ["g0", "g1"], "closed", 2000)
    assert info["storage"]["sketch"]["files"] == 4
    assert info["storage"]["sketch"]["bytes"] > X.nbytes
    np.testing.assert_array_equal(run.sketch.compute(), X)
    np.testing.assert_allclose(run.increments().compute(), np.diff(X.reshape(50, -1), axis=0))
    assert run.scalars["loss"].sel(step=30) == 10


def test_a_run_that_is_opened_as_plain_zarr_says_how_to_open_it(tmp_path):
    path = stores.write_run(tmp_path / "run.zarr", np.ones((3, 2, 8)))
    with xr.open_zarr(path, consolidated=False) as plain:
        assert not plain.sizes
        told = plain.attrs["open_with"]
    assert 'xarray.open_dataset(PATH, engine="gradlog")' in told
    assert xr.open_dataset(path, engine="gradlog").sizes["step"] == 3


def test_xarray_backend(tmp_path):
    from gradlog.analysis.reading.xarray_backend import GradlogBackend

    X = rows(20)
    path = stores.write_run(tmp_path / "r.zarr", X, scalars={"loss": np.arange(20.0), "flags": np.ones(20)})
    ds = xr.open_dataset(path, engine=GradlogBackend)
    np.testing.assert_array_equal(ds.sketch, X)
    assert ds.sketch.dims == ("step", "group", "k")
    assert ds.group_norm2.attrs["units"] == "gradient^2"
    assert set(ds.data_vars) == {"sketch", "group_norm2", "flags", "loss", "scalar_flags"}
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    registered = EntryPoint("gradlog", project["entry-points"]["xarray.backends"]["gradlog"], "xarray.backends")
    assert registered.load() is GradlogBackend
    with xr.open_dataset(path / "seg-000000-r0000", engine="zarr", consolidated=True) as segment:
        np.testing.assert_array_equal(segment.sketch, X)
        assert segment.sketch.dims == ("step", "group", "k")
    assert GradlogBackend().guess_can_open(str(path))
    assert not GradlogBackend().guess_can_open(str(tmp_path))


def test_the_newest_segment_wins_for_each_step(tmp_path):
    path = tmp_path / "r.zarr"
    head = stores.header()
    stores.write_root(path, head)
    old, new, newer = rows(60, 1), rows(30, 2), rows(10, 3)
    stores.write_segment(path, head, old, scalars={"loss": np.zeros(60)})
    stores.write_segment(path, head, new, steps=np.arange(40, 70), number=1, parent_step=39)
    stores.write_segment(
        path, head, newer, steps=np.arange(50, 60), number=2, parent_step=49, scalars={"lr": np.ones(10)}
    )
    run = open_run(path)
    assert run.steps.tolist() == list(range(60))
    expected = np.concatenate([old[:40], new[:10], newer])
    np.testing.assert_array_equal(run.sketch.compute(), expected)
    assert run.info["abandoned"] == 40
    assert run.contiguous_ranges.tolist() == [[0, 60]]
    assert np.isnan(run.scalars["loss"].values[40:]).all()
    assert run.scalars["lr"].sel(step=55) == 1
    whole = stores.write_run(tmp_path / "unbroken.zarr", expected)
    xr.testing.assert_allclose(
        analyze(run)[["kappa", "singular_value"]], analyze(str(whole))[["kappa", "singular_value"]]
    )
    audit = open_run(path, view="all")
    assert len(audit.steps) == 100
    assert audit.contiguous_ranges.tolist() == [[0, 60], [60, 90], [90, 100]]


def test_the_number_of_steps_has_its_earlier_name_too():
    run = open_run(Path(__file__).parents[3] / "sample_logs" / "mlp_wine_exact.zarr")
    assert run.length == run.n_steps == len(run.steps)


def test_ranks_add_up_at_their_common_steps(tmp_path):
    path = tmp_path / "r.zarr"
    head = stores.header()
    stores.write_root(path, head)
    a, b = rows(40, 1), rows(41, 2)
    keep = np.delete(np.arange(41), 7)
    stores.write_segment(path, head, a, scalars={"loss": np.full(40, 1.0)})
    stores.write_segment(path, head, b[keep], steps=keep, rank=1, scalars={"loss": np.full(40, 3.0)})
    run = open_run(path)
    assert run.steps.tolist() == np.delete(np.arange(40), 7).tolist()
    total = (a + b[:40])[run.steps]
    np.testing.assert_allclose(run.sketch.compute(), total, rtol=1e-6)
    np.testing.assert_allclose(run.group_norm2, np.square(total, dtype=float).sum(2), rtol=1e-6)
    assert "estimated" in run.info["norms"]
    assert (run.scalars["loss"] == 2).all()
    assert run.contiguous_ranges.tolist() == [[0, 7], [7, 39]]
    assert any("ranks" in w for w in json.loads(analyze(run).attrs["warnings"]))


def test_ranks_without_common_steps_are_refused(tmp_path):
    path = tmp_path / "r.zarr"
    head = stores.header()
    stores.write_root(path, head)
    stores.write_segment(path, head, rows(5))
    stores.write_segment(path, head, rows(5), steps=np.arange(10, 15), rank=1)
    with pytest.raises(SpecMismatchError, match="share no step"):
        open_run(path)


def test_zip_and_fsspec_urls(tmp_path):
    import fsspec

    X = rows(30)
    path = stores.write_run(tmp_path / "r.zarr", X)
    for base in (path, tmp_path):
        archive = shutil.make_archive(str(tmp_path.parent / f"{tmp_path.name}-{base.name}"), "zip", base)
        np.testing.assert_array_equal(open_run(archive).sketch.compute(), X)
    fs = fsspec.filesystem("memory")
    fs.put(str(path), "/reader/r.zarr", recursive=True)
    np.testing.assert_array_equal(open_run("memory://reader/r.zarr").sketch.compute(), X)
    assert float(analyze("memory://reader/r.zarr", ["last"]).rows) == 30
    fs.rm("/reader", recursive=True)


def test_rows_of_an_unclosed_segment_s_journal_are_seen_also_by_pickled_sources(tmp_path):
    from gradlog import open as open_log

    X = rows(25, groups=1, k=16)
    log = open_log(str(tmp_path / "r.zarr"), like={"w": X[0, 0]}, k="exact")
    for t in range(25):
        log.step({"w": X[t, 0]}, loss=float(t))
    run = open_run(tmp_path / "r.zarr")
    assert run.info["status"] == "recording"
    assert run.info["journal_rows"] == 25
    source = pickle.loads(pickle.dumps(run.rows))
    np.testing.assert_array_equal(source.read(3, 20), X[3:20, 0])
    assert run.scalars["loss"].values.tolist() == list(range(25))
    np.testing.assert_allclose(run.group_norm2[:, 0], np.square(X[:, 0], dtype=float).sum(1), rtol=1e-6)
    log.close()
    np.testing.assert_array_equal(open_run(tmp_path / "r.zarr").sketch.compute()[:, 0], X[:, 0])


@pytest.fixture
def path(tmp_path):
    return stores.write_run(tmp_path / "r.zarr", rows(50), scalars={"loss": np.ones(50)})


def chunk(path, name="sketch", key="c.1.0.0"):
    return path / "seg-000000-r0000" / name / key


def damage_bit(file, at=50):
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["sketch", "group_norm2", "scalars", "step", "flags"])
@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "missing"])
def test_damaged_chunks_are_errors_not_numbers(path, name, how):
    file = sorted((path / "seg-000000-r0000" / name).iterdir())[1]
    if how == "flip":
        damage_bit(file, file.stat().st_size // 2)
    elif how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 9 if how == "truncate" else 0])
    if (name, how) == ("scalars", "missing"):  # columns of names first logged later have no early chunks
        assert np.isnan(open_run(path).scalars["loss"].values[16:32]).all()
        return
    with pytest.raises(CorruptRunError, match=name):
        analyze(str(path))


def test_contradicting_metadata_is_refused(path):
    folder = path / "seg-000000-r0000"
    whole = (folder / META).read_bytes()
    (folder / META).write_bytes(whole[:-30])
    with pytest.raises(CorruptRunError):
        open_run(path)
    (folder / META).write_bytes(whole)
    stores.edit_segment(folder, rows=49)
    with pytest.raises(CorruptRunError, match=r"of shape \[49, 2, 8\], than the metadata in zarr.json, of shape \[50"):
        open_run(path)
    (folder / META).unlink()
    with pytest.raises(CorruptRunError, match="commit record"):
        open_run(path)


def test_an_unflagged_nan_is_refused(tmp_path):
    X = rows(40)
    X[17, 1, 3] = np.nan
    path = stores.write_run(tmp_path / "r.zarr", X)
    with pytest.raises(CorruptRunError, match="not flagged"):
        analyze(str(path))


def test_what_is_not_a_run(tmp_path, path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("hello")
    for bad in ("missing", "empty", "file"):
        with pytest.raises(NotARunError):
            open_run(tmp_path / bad)
    meta = json.loads((path / META).read_text())
    meta["attributes"]["gradlog"]["format"] = "9.0"
    (path / META).write_text(json.dumps(meta))
    with pytest.raises(NewerFormatError, match="upgrade"):
        open_run(path)
    (path / META).write_text("{")
    with pytest.raises(CorruptRunError, match="malformed JSON"):
        open_run(path)
    (path / META).write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(NotARunError, match="not a gradlog run"):
        open_run(path)


@pytest.mark.parametrize("T", [0, 1])
def test_too_short_runs_open_but_are_not_measured(tmp_path, T):
    path = stores.write_run(tmp_path / "r.zarr", rows(T))
    run = open_run(path)
    assert run.info["steps"] == T
    for measure in (analyze, lambda r: r.increments()):
        with pytest.raises(TooFewStepsError) as caught:
            measure(run)
        assert caught.value.exit_code == 3


def test_an_archive_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotARunError, match=r"^zip::.*none\.zip: nothing is there"):
        open_run(f"zip::{tmp_path}/none.zip")


def test_a_server_that_does_not_answer_is_named_as_it_was_given():
    pytest.importorskip("aiohttp")
    with pytest.raises(StoreUnavailableError, match=r"^http://127\.0\.0\.1:1/run\.zarr: "):
        open_run("http://127.0.0.1:1/run.zarr")


def test_info_stays_light():
    code = (
        "import sys, gradlog.analysis, gradlog.analysis.reading.run; "
        "print([m for m in ('dask', 'xarray', 'scipy', 'torch', 'matplotlib', 'distributed') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
