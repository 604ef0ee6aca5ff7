"""Scalars from files of trackers: what is read is what the tracker wrote, joined by step, and damage is told."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from gradlog.analysis import analyze, find_events, open_run, to_json
from gradlog.analysis.reading import scalar_files
from gradlog.analysis.reading.joined_scalars import on_steps, place
from gradlog.analysis.reading.scalar_files import Points, read_points
from gradlog.errors import GradlogError, UnusableInputError
from tests.helpers import stores

STEPS = 90
LOSS = np.where(np.arange(STEPS) == 70, 40.0, 2 + np.sin(np.arange(STEPS)))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    rows = np.random.default_rng(0).standard_normal((STEPS, 2, 8))
    return stores.write_run(tmp_path_factory.mktemp("run") / "run.zarr", rows, scalars={"lr": np.full(STEPS, 0.1)})


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Path:
    """A folder that TensorBoard wrote: numbers of both kinds, a long record, and steps before 0."""
    folder = tmp_path_factory.mktemp("board")
    writer = EventFileWriter(str(folder))
    for step in range(-1, STEPS, 2):
        number = Summary.Value(tag="train/loss", simple_value=LOSS[step])
        tensor = Summary.Value(tag="val/error", tensor=make_tensor_proto(np.float32(step)))
        double = Summary.Value(tag="val/double", tensor=make_tensor_proto(np.float64(step / 3)))
        picture = Summary.Value(tag="picture", image=Summary.Image(encoded_image_string=bytes(2**20 + 1)))
        several = [number, tensor, double, *([picture] if step == 41 else [])]
        writer.add_event(Event(wall_time=1.0, step=step, summary=Summary(value=several)))
    writer.close()
    return folder


def test_event_files_of_tensorboard(board):
    name, points = read_points(board, "loss")
    assert name == "train/loss"
    odd = [step for step in range(-1, STEPS, 2) if step != 41]  # its record holds the picture, and is passed over
    assert points.steps.tolist() == odd
    assert points.values.tolist() == LOSS[odd].astype(np.float32).tolist()
    assert read_points(next(board.iterdir()), "val/error")[1].values.tolist() == odd
    assert read_points(board, "double")[1].values.tolist() == [step / 3 for step in odd]


def test_an_event_file_that_is_being_written_ends_with_its_last_whole_record(board, tmp_path):
    data = next(board.iterdir()).read_bytes()
    (tmp_path / "events.out.tfevents.1").write_bytes(data[:-5])
    assert len(read_points(tmp_path, "loss")[1].steps) == STEPS // 2 - 1


def test_damage_is_told_and_nothing_else_is_raised(board, tmp_path):
    whole = next(board.iterdir()).read_bytes()[:600]
    target = tmp_path / "events.out.tfevents.1"
    rng, refused = np.random.default_rng(0), 0
    for at in range(0, 600, 3):
        data = bytearray(whole)
        data[at] ^= int(rng.integers(1, 256))
        target.write_bytes(data)
        try:
            values = read_points(target, "train/loss")[1].values.tolist()
        except UnusableInputError:
            refused += 1
        else:
            assert values == LOSS[[-1, 1, 3, 5]][: len(values)].astype(np.float32).tolist()
    assert refused > 150


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x2a\x7f", b"\xff" * 12, b"\x2a\x03\x0a\x01\x0a", b"\x0b", b"\x2a\x02\x0a\x09"]
)
def test_a_sealed_record_that_is_no_event_is_refused(tmp_path, data):
    length = len(data).to_bytes(8, "little")
    record = length + scalar_files.masked_crc(length) + data + scalar_files.masked_crc(data)
    (tmp_path / "events.out.tfevents.1").write_bytes(record)
    with pytest.raises(UnusableInputError, match=r"no event|no numbers"):
        read_points(tmp_path, "loss")


TABLES = {
    "plain.csv": "step,loss,lr\n0,1.5,0.1\n1,,0.1\n2,nan,0.1\nnone,3,3\n3,inf,0.1\n",
    "excel.csv": "\ufeffstep,loss\n0,1.5\n2,nan\n3,inf\n",
    "history.csv": '"_step","loss"\n0,1.5\n2,nan\n3,inf\n',
    "panel.tsv": "Step\trun a - loss\trun a - loss__MIN\n0\t1.5\t0\n2\tNaN\t0\n3\tInfinity\t0\n",
    "metrics/loss": "1700000000000 1.5 0\n1700000000001 nan 2\n\nbroken\n1700000000002 inf 3\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_and_metric_files(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(TABLES[name])
    _, points = read_points(file, "loss")
    assert points.steps.tolist() == [0, 2, 3]
    assert points.values[0] == 1.5
    assert math.isnan(points.values[1])
    assert points.values[2] == math.inf


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.csv", "step;loss\n1;1\n", "a column named step in the first row, found 'step;loss'"),
        ("a.csv", "step,train/loss,val/loss\n0,1,2\n", "'train/loss', 'val/loss'"),
        ("a.csv", "step\n0\n", "no numbers at all"),
        ("a.csv", f"step,loss\n0,{'1' * 2**20}\n", "letters"),
        ("run-1.wandb", "", "no kind of file that is read"),
        ("mlflow.db", "", "no kind of file that is read"),
        ("events.out.tfevents.1", "step,loss, of no event file", "not an event file"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(tmp_path, name, text, word):
    (tmp_path / name).write_text(text)
    with pytest.raises(UnusableInputError, match=word) as refused:
        read_points(tmp_path / name, "loss")
    assert "\n" not in str(refused.value)
    with pytest.raises(UnusableInputError, match="no such file"):
        read_points(tmp_path / "missing.csv", "loss")


def test_more_points_than_are_held_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(scalar_files, "MOST_POINTS", 3)
    (tmp_path / "a.csv").write_text("step,loss\n" + "".join(f"{i},1\n" for i in range(4)))
    with pytest.raises(UnusableInputError, match="more than 3 points"):
        read_points(tmp_path / "a.csv", "loss")


@given(st.lists(st.tuples(st.integers(-3, 12), st.floats(allow_nan=False))), st.lists(st.integers(-5, 15)))
def test_numbers_join_their_steps_and_the_last_of_a_step_wins(points, steps):
    last = dict(points)
    joined = on_steps(
        Points(array("q", [s for s, _ in points]), array("d", [v for _, v in points])), np.array(steps, int)
    )
    assert [None if math.isnan(x) else x for x in joined] == [last.get(step) for step in steps]


def test_a_file_with_a_colon_in_its_name_is_still_a_file(tmp_path):
    file = tmp_path / "a:b.csv"
    file.write_text("step,loss\n")
    assert place(str(file), "loss") == (file, "loss")
    assert place(f"{file}:train/loss", "loss") == (file, "train/loss")


def test_a_joined_loss_serves_bounds_and_events_and_its_source_is_told(path, board):
    bare = to_json(analyze(path, ["last"], cache=False))
    assert bare["bounds"]["inputs"]["sources"]["first_loss"] == "missing"
    run = open_run(path, scalars={"loss": f"{board}:train/loss"})
    assert run.scalar_names == ["lr", "loss"]
    expected = np.full(STEPS, np.nan)
    expected[[s for s in range(1, STEPS, 2) if s != 41]] = LOSS[[s for s in range(1, STEPS, 2) if s != 41]]
    np.testing.assert_allclose(run.scalar_columns["loss"], expected, rtol=1e-6)
    document = to_json(analyze(run, ["last"]))
    sources = document["bounds"]["inputs"]["sources"]
    assert (sources["first_loss"], sources["eta"]) == ("joined", "logged")
    assert document["bounds"]["stationarity"]["last"]["right"] is not None
    assert f"44 of {STEPS} steps have a loss, from {board}:train/loss" in document["warnings"]
    assert document["kappa"] == bare["kappa"]


def test_a_spike_of_a_joined_loss_is_an_event(path, tmp_path):
    table = tmp_path / "loss.csv"
    table.write_text("step,loss\n" + "".join(f"{i},{x}\n" for i, x in enumerate(LOSS)))
    assert [e.first.series for e in find_events(open_run(path)).found] == []
    (event,) = find_events(open_run(path, scalars={"loss": str(table)})).found
    assert (event.first_step, event.first.series) == (70, "loss")


def test_what_cannot_be_joined_is_refused(path, tmp_path):
    table = tmp_path / "loss.csv"
    table.write_text("step,loss,lr\n5000,1,1\n")
    with pytest.raises(GradlogError, match="5,000 to 5,000, the run 0 to 89"):
        open_run(path, scalars={"loss": str(table)})
    with pytest.raises(GradlogError, match="logged a lr of its own"):
        open_run(path, scalars={"lr": str(table)})
