"""Two halves of a batch: what the recorder keeps of them, through the journal, a kill and compaction."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import analyze, open_run
from gradlog.analysis.audit.files import Folder
from gradlog.analysis.audit.integrity import examine
from gradlog.errors import GradientError, GradlogWarning
from gradlog.format.names import HALF_NORM2
from gradlog.storage.compact import compact
from tests.helpers.small_run import LIKE, gradient, start

STEPS = 40
GROUPS = {"a": ["w", "b"], "c": []}


def halves(t: int) -> tuple[dict, dict]:
    """Gradient of the batch and of its first half."""
    first, second = gradient(2 * t), gradient(2 * t + 1)
    mean = {
        "a": {n: (first["a"][n] + second["a"][n]) / 2 for n in ("w", "b")},
        "c": (first["c"] + second["c"]) / 2,
    }
    return mean, first


def truth(t: int) -> list[float]:
    """Squared norm of half the difference, by group a and c, from the halves themselves."""
    first, second = gradient(2 * t), gradient(2 * t + 1)
    a = [np.square((first["a"][n] - second["a"][n]) / 2).sum() for n in ("w", "b")]
    return [sum(a), np.square((first["c"] - second["c"]) / 2).sum()]


def record(log: gradlog.Logger, steps: int = STEPS) -> None:
    for t in range(steps):
        mean, first = halves(t)
        log.step(mean, half=first, batch_size=64.0)


def kept(path: Path) -> np.ndarray:
    (segment,) = open_run(path).segments
    return np.stack([segment.scalars[HALF_NORM2.format(g)] for g in range(2)], axis=1)


def test_each_group_keeps_the_squared_norm_of_half_the_difference(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr", groups={"a": "^a", "c": "^c"}) as log:
        record(log)
    np.testing.assert_allclose(kept(tmp_path / "r.zarr"), [truth(t) for t in range(STEPS)], rtol=1e-5)


def test_the_signal_is_the_inner_product_of_both_halves(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with start(path, groups={"a": "^a", "c": "^c"}) as log:
        record(log)
    ds = analyze(str(path), ["last"])
    product = np.zeros(2)
    for t in range(STEPS):
        first, second = gradient(2 * t), gradient(2 * t + 1)
        product += [sum((first["a"][n] * second["a"][n]).sum() for n in ("w", "b")), first["c"] @ second["c"]]
    expected = np.maximum(product / STEPS, 0)
    np.testing.assert_allclose(ds.group_signal, expected, rtol=1e-4)
    assert ds.attrs["signal_source"] == "half batches"
    assert [name for name in open_run(path).scalar_names if "half" in name] == []


def test_a_kill_and_compaction_lose_no_half(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    child = os.fork()
    if child == 0:
        try:
            record(start(path, groups={"a": "^a", "c": "^c"}))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    expected = [truth(t) for t in range(STEPS)]
    np.testing.assert_allclose(kept(path), expected, rtol=1e-5)  # chunks and journal
    start(path, groups={"a": "^a", "c": "^c"}, mode="a").close()
    compact(path)
    assert examine(Folder(path)).problems == []
    run = open_run(path)
    found = np.concatenate([np.stack([s.scalars[HALF_NORM2.format(g)] for g in range(2)], 1) for s in run.segments[:1]])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_missing_gradient_counts_as_zero_in_either(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", {"w": np.zeros(3), "v": np.zeros(2)}, k=8, groups="all") as log:
        log.step({"w": np.ones(3), "v": None}, half={"w": None, "v": np.full(2, 2.0)})
        log.step({"w": np.ones(3), "v": None}, half={"w": np.ones(3)})
    (segment,) = open_run(tmp_path / "r.zarr").segments
    assert segment.scalars[HALF_NORM2.format(0)].tolist() == [3 + 8, 0]


def test_complex_gradients_count_real_and_imaginary_parts(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", {"w": np.zeros(3, np.complex64)}, k=8) as log:
        log.step({"w": np.full(3, 1 + 2j, np.complex64)}, half={"w": np.full(3, 2 + 4j, np.complex64)})
    (segment,) = open_run(tmp_path / "r.zarr").segments
    assert segment.scalars[HALF_NORM2.format(0)].tolist() == [15]


def test_close_halves_keep_their_digits(tmp_path: Path) -> None:
    """Differences are taken before they are squared, at sizes where squares leave float32."""
    with gradlog.open(tmp_path / "r.zarr", {"w": np.zeros(100_000)}, k=8) as log:
        log.step({"w": np.full(100_000, 1e-20)}, half={"w": np.full(100_000, 3e-20)})
    (segment,) = open_run(tmp_path / "r.zarr").segments
    assert segment.scalars[HALF_NORM2.format(0)][0] == pytest.approx(4e-35, rel=1e-5)


def test_a_row_with_nan_is_left_out_of_signal_and_noise(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", LIKE, k=8) as log:
        for t in range(STEPS):
            mean, first = halves(t)
            if t == 5:
                first["c"] = np.full(7, np.inf)
                mean["c"] = first["c"]
            log.step(mean, half=first)
    ds = analyze(str(tmp_path / "r.zarr"), ["last"])
    rows = [t for t in range(STEPS) if t != 5]
    assert float(ds.noise) == pytest.approx(np.mean([sum(truth(t)) for t in rows]), rel=1e-5)


@pytest.mark.parametrize(
    ("half", "what", "said"),
    [
        ({"x": np.zeros(3)}, "gradient", "'x' is no parameter of this run"),
        ({"w": np.zeros(4)}, "gradient", r"w: expected a gradient of shape \(3,\), got \(4,\)"),
        ({"w": np.zeros(3)}, "update", "half: expected with what='gradient', this run records what='update'"),
    ],
)
def test_halves_that_do_not_fit_are_refused_in_a_sentence(tmp_path: Path, half: dict, what: str, said: str) -> None:
    like = {"w": np.zeros(3)}
    strict = gradlog.open(tmp_path / "r.zarr", like, k=8, what=what, on_error="raise")
    with strict as log, pytest.raises(GradientError, match=said):
        log.step(like, half=half)
    with gradlog.open(tmp_path / "s.zarr", like, k=8, what=what) as log, pytest.warns(GradlogWarning, match=said):
        log.step(like, half=half)
