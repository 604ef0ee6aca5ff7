"""From gradients to a row in memory, without a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch

import gradlog
from gradlog.errors import GradientError
from gradlog.format.header import NONFINITE, PARTIAL, SKIPPED, RunHeader, SketchSpec, TensorInfo
from gradlog.recorder.rows.row_builder import Row, RowBuilder
from gradlog.sketching.fold_hash import FoldHash
from gradlog.storage.block import Block

TENSORS = (TensorInfo("a", (2,), "float32", 0), TensorInfo("b", (3,), "float32", 1))
HEADER = RunHeader(SketchSpec("exact/1", 3, 0, 0), ("A", "B"), TENSORS, chunk=4)


def built(pairs: list[tuple[str, object]], **row: object) -> tuple[Block, bool]:
    builder, block = RowBuilder(HEADER, print, lambda name: True, print), Block(HEADER)
    return block, builder.write(block, 7, Row(builder.ordered(pairs), {}, **row), {"loss": 0.5})


def test_a_row_has_sketches_norms_step_and_scalars_behind_the_rows_that_count() -> None:
    block, written = built([("b", np.array([3.0, 0, 4])), ("a", np.array([1.0, 2]))])
    assert written
    assert block.sketch[0].tolist() == [[1, 2, 0], [3, 0, 4]]
    assert block.norm2[0].tolist() == [5, 25]
    assert (block.step[0], block.flags[0], block.names, block.scalars[0, 0]) == (7, 0, ["loss"], 0.5)
    assert block.rows == 0


@pytest.mark.parametrize(
    ("gradient", "row", "flags"),
    [
        ([("a", np.ones(2))], {}, PARTIAL),
        ([("a", np.ones(2)), ("b", np.array([1, np.inf, 2]))], {}, NONFINITE),
        ([("a", np.ones(2)), ("b", np.ones(3))], {"skipped": True}, SKIPPED),
        ([("b", np.full(3, np.nan))], {"skipped": True}, PARTIAL | NONFINITE | SKIPPED),
    ],
)
def test_flags_say_what_is_odd_about_a_row(gradient: list[tuple[str, object]], row: dict, flags: int) -> None:
    block, written = built(gradient, **row)
    assert written
    assert block.flags[0] == flags


def test_a_step_without_any_gradient_is_no_row() -> None:
    assert built([("a", None)])[1] is False


def test_a_strange_name_is_refused() -> None:
    with pytest.raises(GradientError, match="'c' is no parameter"):
        built([("c", np.ones(2))])


def by_hand(path: Path) -> None:
    with gradlog.open(path, {"w": np.ones(50)}, k=8, on_error="raise") as log:
        log.parameters({"w": np.ones(50)})
        log.step({"w": np.ones(50)})


def attached(path: Path) -> None:
    w = torch.nn.Parameter(torch.ones(50))
    optimizer = torch.optim.SGD([w])
    with gradlog.attach(optimizer, path, k=8, on_error="raise"):
        w.sum().backward()
        optimizer.step()


@pytest.mark.parametrize("record", [by_hand, attached])
def test_a_run_makes_its_random_map_once(tmp_path: Path, record: Callable[[Path], None]) -> None:
    """Neither its header nor a sketch of the parameters needs another one."""
    made = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal made
        made += event == "call" and frame.f_code is FoldHash.__init__.__code__

    sys.setprofile(count)
    try:
        record(tmp_path / "r.zarr")
    finally:
        sys.setprofile(None)
    assert made == 1
