"""Arguments of ``gradlog.open`` as they come out of configuration files, command lines and numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.format.header import RunHeader, SketchSpec, TensorInfo
from gradlog.recorder.rows.row_builder import Columns
from gradlog.storage.block import Block


@pytest.mark.parametrize("kind", [np.int64, np.uint8, str, lambda n: np.array(n)])
def test_whole_numbers_of_any_kind(tmp_path: Path, kind: type) -> None:
    options = {"k": kind(8), "seed": kind(3), "every": kind(2), "chunk": kind(16), "sketch_bits": kind(12)}
    with gradlog.open(tmp_path / "r.zarr", on_error="raise", rank=kind(0), first_step=kind(4), **options) as log:
        for t in range(4):
            log.step(np.ones(30), step=np.int64(4 + t))
    run = open_run(tmp_path / "r.zarr")
    header = run.header
    assert (header.sketch.k, header.sketch.seed, header.every, header.chunk) == (8, 3, 2, 16)
    assert run.steps.tolist() == [4, 6]


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("k", "many", "k must be an integer from 1 to 1,048,576 or 'exact', got 'many'"),
        ("k", True, "got True"),
        ("k", 64.0, "got 64.0"),
        ("k", 0, "got 0"),
        ("every", "0", "every must be an integer from 1 to 1,099,511,627,776, got '0'"),
        ("seed", None, "seed must be an integer, got None"),
        ("first_step", -1, "first_step must be an integer from 0 to"),
        ("sketch_bits", 24, "sketch_bits must be an integer from 1 to 23, got 24"),
    ],
)
def test_what_is_no_whole_number_is_refused(tmp_path: Path, option: str, value: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        gradlog.open(tmp_path / "r.zarr", **{option: value})


def test_notes_of_any_kind_are_kept(tmp_path: Path) -> None:
    notes = {"lr": np.float32(0.5), "data": Path("cifar"), "shape": (2, np.int64(3)), "best": float("inf"), 7: {None}}
    with gradlog.open(str(tmp_path / "r.zarr"), notes=notes, on_error="raise") as log:
        log.step(np.ones(3))
    header = json.loads((tmp_path / "r.zarr" / "zarr.json").read_text())["attributes"]["gradlog"]
    expected = {"lr": 0.5, "data": "cifar", "shape": [2, 3], "best": "inf", "7": [None]}
    assert header["provenance"]["notes"] == expected


LIKE = {"a.weight": np.zeros((6, 5)), "b.weight": np.zeros(12)}


@pytest.mark.parametrize("mode", ["w-", "a", "w"])
def test_a_chunk_that_readers_refuse_is_refused_at_open(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "r.zarr"
    with gradlog.open(path, like=LIKE, k=1024, groups="tensors", chunk=8, on_error="raise") as log:
        log.step(LIKE)
    text = "chunk must be at most 32,768: .* 2 groups x 1,024 numbers .* 256 MiB .* got 32,769, leave it out"
    with pytest.raises(ValueError, match=text):
        gradlog.open(path, like=LIKE, k=1024, groups="tensors", chunk=32_769, mode=mode)
    assert len(open_run(path).steps) == 1


@pytest.mark.parametrize(("option", "value"), [("chunk", 2**20 + 1), ("every", 2**41), ("rank", 10_000)])
def test_numbers_that_readers_refuse_are_refused_at_open(tmp_path: Path, option: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{option} must be an integer from"):
        gradlog.open(tmp_path / "r.zarr", **{option: value})


def test_a_chunk_is_refused_before_the_layout_is_known_if_no_layout_could_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chunk must be at most 65,536"):
        gradlog.open(tmp_path / "r.zarr", k=1024, chunk=65_537)


def test_a_model_that_readers_refuse_follows_on_error_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with gradlog.open(path, like=LIKE, k=8, on_error="raise") as log:
        log.step(LIKE)
    long = {"x" * 2**25: np.zeros(3)}
    with pytest.raises(ValueError, match="no reader would take this run, so it is not recorded"):
        gradlog.open(path, like=long, k=8, mode="w", on_error="raise")
    with pytest.warns(
        gradlog.GradlogWarning, match="recording ended, training goes on: .* no reader would take this run"
    ):
        log = gradlog.open(path, like=long, k=8, mode="w")
    assert not log.active
    assert len(open_run(path).steps) == 1


def test_parameters_that_join_with_names_that_readers_refuse_are_not_recorded(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", like=LIKE, k=8, on_error="raise") as log:
        log.step(LIKE)
        with pytest.raises(ValueError, match="no reader would take seg-000001-r0000"):
            log.join({"x" * 2**25: np.zeros(3)})
    assert len(open_run(tmp_path / "r.zarr").steps) == 1


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        pytest.param([f"s{i}" for i in range(2**16 + 5)], 2**16 - 1, marks=pytest.mark.slow),
        (["x" * 2**18 + str(i) for i in range(5)], 4),
        ([",[" * 2**20], 1),
    ],
    ids=["many", "long", "of a million commas"],
)
def test_scalar_names_beyond_what_readers_take_are_left_out_with_one_warning(
    tmp_path: Path, names: list[str], taken: int
) -> None:
    path = tmp_path / "r.zarr"
    with gradlog.open(path, like=LIKE, k=8, chunk=2, groups="all") as log:
        with pytest.warns(gradlog.GradlogWarning, match="later new scalars are not recorded") as said:
            log.step(LIKE, **dict.fromkeys(names, 1.0))
            log.annotate(late=2.0)
            log.step(LIKE, wall_time=5.0)
        assert len(said) == 1
    run = open_run(path)
    assert run.steps.tolist() == [0, 1]
    assert len(run.segments[0].header.scalars) == taken
    assert run.scalar_columns["wall_time"][1] == 5.0


def test_scalar_names_that_come_late_do_not_outgrow_what_is_read_of_a_journal() -> None:
    header = RunHeader(SketchSpec("exact/1", 1, 0, 0), ("w",), (TensorInfo("w", (1,), "float32", 0),), chunk=2**20)
    block, said = Block(header), list[str]()
    block.rows = 2**20 - 1
    columns = Columns(said.append)
    assert [columns.put(block, 0, f"s{i}", float(i)) for i in range(20)] == [*range(16), *[None] * 4]
    assert columns.put(block, 0, "s3", 0.5) == 3
    assert block.scalars[0].tolist() == [0, 1, 2, 0.5, *range(4, 16)]
    assert len(said) == 1
    assert said[0].startswith("'s16' and later new scalars are not recorded: ")
