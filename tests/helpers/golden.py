"""The golden stores of format 1, what was recorded into them, and both readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gradlog.analysis.reading.run import Run
from tests.helpers.programs import load

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
NAMES = ["sketched", "joined", "exact", "ranks", "compacted", "rounded", "killed", "halves", "updates", "placed"]
SEGMENT = "seg-000000-r0000"


second = load(ROOT / "tests" / "second_reader.py")
make = load(GOLDEN / "make.py")


def expected(name: str) -> dict[str, dict[str, np.ndarray]]:
    """What was recorded: {segment: {array: rows}}."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(GOLDEN / f"{name}.npz") as data:
        for key in data:
            segment, array = key.split("/")
            found.setdefault(segment, {})[array] = data[key]
    return found


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """To the bit, NaN payloads apart."""
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def segment_rows(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """Every segment's rows through this library's reader."""
    found = {}
    for segment in run.segments:
        sketch = np.empty((len(segment.steps), run.n_groups, run.k), np.float32)
        segment.read_rows(0, len(sketch), sketch)
        scalars = segment.scalars
        found[segment.header.name] = {
            "step": segment.steps,
            "flags": segment.flags,
            "norm2": segment.norm2,
            "sketch": sketch,
            "names": np.array(list(scalars)),
            "scalars": np.stack(list(scalars.values()), 1) if scalars else np.empty((len(sketch), 0)),
        }
        if "update" in segment.header.optional:
            update = np.empty_like(sketch)
            segment.read_rows(0, len(update), update, "update")
            found[segment.header.name]["update"] = update
    return found
