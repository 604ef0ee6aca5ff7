"""Arguments of ``gradlog.open`` as they come out of configuration files, command lines and numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run


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
        ("every", "0", "every must be an integer of at least 1, got '0'"),
        ("seed", None, "seed must be an integer, got None"),
        ("first_step", -1, "first_step must be an integer of at least 0"),
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
