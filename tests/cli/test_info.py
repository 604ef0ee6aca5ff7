"""``gradlog info``."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

import gradlog


def test_says_what_the_run_holds(call, samples):
    shown = call("info", samples / "tiny_sort_rmsprop.zarr")
    assert shown.code == 0
    assert shown.err == ""
    for fact in ("400 (0 to 399)", "closed", "k = 256", "102,282 parameters", "layer.1", "batch_size", "rmsprop"):
        assert fact in shown.out
    assert shown.out.rstrip().endswith(f"next: gradlog analyze {samples / 'tiny_sort_rmsprop.zarr'}")


def test_fits_80_columns(call, samples, monkeypatch):
    monkeypatch.chdir(samples)
    shown = call("info", "tiny_sort_rmsprop.zarr")
    assert max(map(len, shown.out.splitlines())) <= 80


def test_it_says_what_sketched_the_rows_where_that_was_recorded(call, make_run, samples):
    assert "sketched by  numpy" in call("info", make_run()).out
    assert "sketched by" not in call("info", samples / "tiny_sort_rmsprop.zarr").out


def test_json_is_the_run_s_info(call, make_run):
    facts = json.loads(call("info", make_run(), "--json").out)
    assert (facts["steps"], facts["k"], facts["groups"]) == (40, 16, ["a.weight", "b.weight"])
    assert facts["storage"]["sketch"]["files"] == 3


def test_an_empty_run_is_shown(call, make_run):
    shown = call("info", make_run(steps=0))
    assert shown.code == 0
    assert "none yet" in shown.out
    assert "next:" not in shown.out


def test_a_killed_writer_is_told_until_its_rows_are_recovered(call, killed):
    said = " ".join(call("info", killed).out.split())
    assert "the process that recorded it is gone and did not close it; gradlog recover commits" in said
    assert call("recover", killed).code == 0
    assert "is gone" not in call("info", killed).out


def test_a_run_that_is_being_recorded_shows_every_step(call, tmp_path):
    log = gradlog.open(tmp_path / "live.zarr", k=8, chunk=8, on_error="raise")
    try:
        for _ in range(11):
            log.step({"w": np.ones(20)})
        shown = call("info", tmp_path / "live.zarr")
        assert "11 (0 to 10)" in shown.out
        assert "recording" in shown.out
        assert "is gone" not in shown.out
    finally:
        log.close()


def test_irregular_steps_are_named(call, tmp_path):
    with gradlog.open(tmp_path / "odd.zarr", k=8, on_error="raise") as log:
        for step in (0, 1, 5, 6):
            log.step({"w": np.full(20, np.nan if step == 6 else 1.0)}, step=step)
    shown = call("info", tmp_path / "odd.zarr")
    assert "steps are missing in 1 place, first between 1 and 5" in shown.out
    assert "NaN or inf in 1 step: 6" in shown.out


def test_control_characters_of_a_store_do_not_reach_the_terminal(call, tmp_path):
    with gradlog.open(tmp_path / "evil.zarr", k=8, notes={"task": "\x1b[2J\x1b]0;owned\x07"}, on_error="raise") as log:
        log.step({"w\x1b[31m": np.ones(20)})
    shown = call("info", tmp_path / "evil.zarr")
    assert shown.code == 0
    assert not set(shown.out) & {"\x1b", "\x07"}
    assert "\\x1b[2J" in shown.out


@pytest.mark.parametrize("view", ["latest", "all"])
def test_view(call, tmp_path, view):
    for first in (0, 5):
        with gradlog.open(tmp_path / "r.zarr", k=8, mode="a", first_step=first, on_error="raise") as log:
            for _ in range(8):
                log.step({"w": np.ones(20)})
    shown = call("info", tmp_path / "r.zarr", "--view", view)
    assert f"{13 if view == 'latest' else 16} (0 to 12)" in shown.out


def test_loss_and_norm_are_drawn_and_stay_out_of_the_json(call, make_run):
    path = make_run()
    lines = call("info", path).out.splitlines()
    at = lines.index("over time")
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == ["loss", "gradient"]
    assert "█" in lines[at + 1]
    assert max(map(len, lines[at + 1 : at + 3])) <= 80
    assert "curves" not in json.loads(call("info", path, "--json").out)


def test_damaged_norms_are_told_and_the_rest_is_shown(call, make_run):
    path = make_run()
    chunk = next((path / "seg-000000-r0000" / "group_norm2").glob("c.*"))
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    shown = call("info", path)
    assert shown.code == 0
    assert "loss and norms cannot be shown" in shown.out
    assert "storage" in shown.out


def test_a_segment_after_one_without_rows_names_no_step(call, tmp_path):
    for steps in (0, 2):
        with pytest.warns(gradlog.GradlogWarning) if not steps else contextlib.nullcontext():
            log = gradlog.open(tmp_path / "r.zarr", like={"w": np.zeros(6)}, k="exact", mode="a")
            for _ in range(steps):
                log.step({"w": np.ones(6)})
            log.close()
    out = call("info", tmp_path / "r.zarr").out
    assert "closed  seg-000000-r0000\n" in out
    assert "None" not in out


def test_the_range_of_a_curve_is_that_of_all_steps(call, tmp_path):
    with gradlog.open(tmp_path / "run.zarr", k=8, on_error="raise") as log:
        for t in range(400):
            log.step({"w": np.ones(100)}, loss=50.0 if t == 201 else 1.0)
    line = next(x for x in call("info", tmp_path / "run.zarr").out.splitlines() if x.strip().startswith("loss "))
    assert line.endswith("1.000 .. 50.00")
