"""What the recorder keeps: every row, its labels, its scalars, the parameters, and those that join later."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.files import Folder
from gradlog.analysis.audit.integrity import examine
from gradlog.errors import GradlogWarning, SpecMismatchError
from gradlog.format.header import NONFINITE, PARTIAL
from tests.helpers.small_run import gradient, start


def test_every_row_comes_back(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr", k="exact") as log:
        for t in range(40):
            log.step(gradient(t), loss=1.0 / (t + 1))
            log.annotate(accuracy=float(t))
    run = open_run(tmp_path / "r.zarr")
    assert run.steps.tolist() == list(range(40))
    rows = run.sketch.compute()
    for t in (0, 15, 16, 39):
        g = gradient(t)
        flat = np.concatenate([np.ravel(g["a"]["w"]), g["a"]["b"]]).astype(np.float32)
        assert np.array_equal(rows[t, 0, :24], flat)
        np.testing.assert_allclose(run.group_norm2[t], [np.sum(flat**2.0), np.sum(g["c"] ** 2)], rtol=1e-6)
    assert run.scalar_columns["loss"][3] == 0.25
    assert run.scalar_columns["accuracy"].tolist() == list(map(float, range(40)))
    assert examine(Folder(tmp_path / "r.zarr")).problems == []


def test_labelled_rows(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr", on_error="warn") as log:
        log.step(gradient(0))
        log.step({"a": {"w": np.full((5, 4), np.nan)}, "c": np.zeros(7)})
        with pytest.warns(GradlogWarning, match="step 2 and maybe more are not recorded: no parameter had a gradient"):
            log.step({"c": None})
        log.step(gradient(3))
    run = open_run(tmp_path / "r.zarr")
    assert run.steps.tolist() == [0, 1, 3]
    assert run.flags.tolist() == [0, NONFINITE | PARTIAL, 0]
    assert run.segments[0].header.dropped == ((2, 2, "no parameter had a gradient"),)


def test_a_sketch_that_overflows_is_flagged(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=1, on_error="raise") as log:
        log.step(np.full(1000, 3e38))
        log.step(np.ones(1000))
    assert open_run(tmp_path / "r.zarr").flags.tolist() == [NONFINITE, 0]


def test_every_and_late_scalars(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr", every=3) as log:
        for t in range(100):
            log.step(gradient(t), **({f"s{i}": float(i) for i in range(20)} if t > 60 else {}))
    run = open_run(tmp_path / "r.zarr")
    assert run.steps.tolist() == list(range(0, 100, 3))
    assert np.isnan(run.scalar_columns["s19"][:20]).all()
    assert run.scalar_columns["s19"][-1] == 19


def test_zarr_reads_what_was_written(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr", sketch_bits=10) as log:
        for t in range(20):
            log.step(gradient(t))
    group = zarr.open_group(tmp_path / "r.zarr" / "seg-000000-r0000", mode="r")
    assert not (group["sketch"][:].view(np.uint32) & 0x1FFF).any()


def test_xarray_opens_a_segment_as_it_is(tmp_path: Path) -> None:
    import xarray as xr

    with start(tmp_path / "r.zarr") as log:
        for t in range(20):
            log.step(gradient(t))
    with xr.open_zarr(tmp_path / "r.zarr" / "seg-000000-r0000") as data:
        assert dict(data.sizes) == {"step": 20, "group": 2, "k": 8, "scalar": 1}
        assert data.step.values.tolist() == list(range(20))


def test_sketches_of_the_parameters(tmp_path: Path) -> None:
    """At the start, twice at one step (the newer counts), and at the end, where no row follows."""
    path = tmp_path / "r.zarr"
    with start(path, k="exact", chunk=4) as log:
        log.parameters(gradient(100))
        for t in range(8):
            log.step(gradient(t))
            if t == 5:
                while log.state_dict()["rows"] < 4:  # else the commit of the first chunk may come between the two
                    time.sleep(0.01)
                log.parameters(gradient(101))
                log.parameters(gradient(102))
        log.parameters(gradient(103))
    with start(path, k="exact", chunk=4, mode="a") as log:
        assert log.state_dict()["step"] == 8
    segment = zarr.open_group(path / "seg-000000-r0000", mode="r", use_consolidated=True)
    assert segment["theta_step"][:].tolist() == [0, 6, 8]
    flat = [np.concatenate([np.ravel(gradient(t)["a"]["w"]), gradient(t)["a"]["b"]]) for t in (100, 102, 103)]
    assert np.array_equal(segment["theta"][:, 0], np.array(flat, np.float32))


def test_parameters_that_join_later(tmp_path: Path) -> None:
    """The same rows as of a run that knew them from the start and saw no gradient of them; also after a resume."""
    names = ["body.0.w", "body.1.w", "head.w"]
    rng = np.random.default_rng(0)
    rows = [{name: rng.normal(size=30) for name in names} for _ in range(9)]
    for row in rows[:4]:
        row["body.1.w"] = None

    with gradlog.open(tmp_path / "all.zarr", like=rows[5], k=16, on_error="raise") as log:
        for row in rows:
            log.step(row)
    first = {name: rows[0][name] for name in ("body.0.w", "head.w")}
    groups = {"body": "^body", "head": "^head"}
    with gradlog.open(tmp_path / "r.zarr", like=first, k=16, groups=groups, on_error="raise") as log:
        for row in rows[:4]:
            log.step({name: row[name] for name in first})
        with pytest.warns(GradlogWarning, match=r"1 parameters joined \(body.1.w\)"):
            log.join({"body.1.w": rows[5]["body.1.w"]})
        for row in rows[4:6]:
            log.step(row)
    with gradlog.open(tmp_path / "r.zarr", like=rows[5], k=16, groups=groups, mode="a", on_error="raise") as log:
        assert [t.group for t in log.header.tensors] == [0, 1, 0]
        for row in rows[6:]:
            log.step(row)
    both = open_run(tmp_path / "r.zarr")
    assert both.steps.tolist() == list(range(9))
    assert [len(s.header.joined) for s in both.segments] == [0, 1, 1]
    whole = open_run(tmp_path / "all.zarr").sketch.compute().sum(axis=1)
    np.testing.assert_allclose(both.sketch.compute().sum(axis=1), whole, rtol=1e-5, atol=1e-5)
    assert examine(Folder(tmp_path / "r.zarr")).problems == []
    with pytest.raises(SpecMismatchError, match="joined the run"):
        gradlog.open(tmp_path / "r.zarr", like=rows[5] | {"body.1.w": np.ones(7)}, k=16, groups=groups, mode="a",
                     on_error="raise")  # fmt: skip


def test_fingerprints() -> None:
    assert gradlog.fingerprint([1, 2]) == gradlog.fingerprint(torch.tensor([1, 2], dtype=torch.int32))
    assert gradlog.fingerprint(["a", "b"]) != gradlog.fingerprint(["ab", ""])
    assert gradlog.fingerprint("x") == gradlog.fingerprint(b"x") == int(gradlog.fingerprint(b"x")) < 2**48
    with pytest.raises(TypeError, match="expected numbers"):
        gradlog.fingerprint([object()])


def test_a_step_that_ctrl_c_ends_is_a_known_gap(tmp_path: Path) -> None:
    class Interrupts:
        shape = (3,)

        def __array__(self, dtype=None, copy=None):
            raise KeyboardInterrupt

    with gradlog.open(tmp_path / "r.zarr", {"w": np.zeros(3)}, k=4, on_error="raise") as log:
        for t in range(6):
            if t in (2, 4):
                with pytest.raises(KeyboardInterrupt):
                    log.step({"w": Interrupts()}, step=t)
            if t == 3:
                with pytest.warns(GradlogWarning, match="step 2 and maybe more are not recorded: interrupted"):
                    log.step({"w": np.ones(3)}, step=t)
            elif t != 2:  # the other one is taken again
                log.step({"w": np.ones(3)}, step=t)
    run = open_run(tmp_path / "r.zarr")
    assert run.steps.tolist() == [0, 1, 3, 4, 5]
    assert [tuple(gap) for gap in run.segments[0].header.dropped] == [(2, 2, "interrupted")]
