"""A gradient that is sketched afterwards gives the row that the recorder made of it; what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.errors import GradientError
from gradlog.format.header import TensorInfo
from tests.helpers import stores

LIKE = {"body.0.weight": (30, 40), "body.0.bias": (30,), "head.weight": (3, 30), "scale": ()}


def gradient(t: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(t)
    return {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in LIKE.items()}


def record(path, steps=5, **options):
    options = {"k": 16, "chunk": 16, "on_error": "raise", **options}
    with gradlog.open(path, like=gradient(0), **options) as log:
        for t in range(steps):
            log.step(gradient(t))
    return open_run(str(path))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return record(tmp_path_factory.mktemp("runs") / "run.zarr")


@pytest.mark.parametrize("options", [{}, {"k": "exact"}, {"groups": "tensors", "seed": 5}], ids=str)
def test_the_sketch_of_a_recorded_gradient_is_its_row(tmp_path, options):
    run = record(tmp_path / "run.zarr", **options)
    sketcher, rows = run.sketcher(), run.sketch.compute()
    for t in range(5):
        probe = sketcher.sketch(gradient(t))
        np.testing.assert_array_equal(probe.sketch, rows[t])
        np.testing.assert_array_equal(probe.norm2, run.group_norm2[t])
        assert probe.norm == pytest.approx(np.sqrt(sum(np.square(g, dtype=float).sum() for g in gradient(t).values())))


def test_order_nesting_and_wrappers_of_torch_do_not_matter(run):
    sketcher, plain = run.sketcher(), gradient(1)
    expected = sketcher.sketch(plain).sketch
    wrapped = [(f"module._orig_mod.{name}", g) for name, g in reversed(plain.items())]
    tree = {"body": [{"weight": plain["body.0.weight"], "bias": plain["body.0.bias"]}],
            "head": {"weight": plain["head.weight"]}, "scale": plain["scale"]}  # fmt: skip
    for given in (wrapped, tree):
        np.testing.assert_array_equal(sketcher.sketch(given).sketch, expected)


def test_no_gradient_counts_as_zeros(run):
    head_only = {name: g if name.startswith("head") else None for name, g in gradient(2).items()}
    zeros = {name: g * name.startswith("head") for name, g in gradient(2).items()}
    np.testing.assert_array_equal(run.sketcher().sketch(head_only).sketch, run.sketcher().sketch(zeros).sketch)


def test_what_the_run_does_not_record_is_left_out_and_named(run):
    probe = run.sketcher().sketch(gradient(1) | {"frozen": np.ones(3), "other": None})
    assert probe.left_out == ("frozen", "other")
    np.testing.assert_array_equal(probe.sketch, run.sketcher().sketch(gradient(1)).sketch)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda g: {n: x for n, x in g.items() if n != "scale"},
            "expected gradients of 4 tensors, scale not found among body.0.weight",
        ),
        (lambda g: g | {"scale": np.ones(2)}, r"scale: expected a gradient of shape \(\), got \(2,\)"),
        (lambda g: g | {"scale": np.array(np.nan)}, "expected a finite gradient, got one with NaN or inf"),
        (lambda g: g | {"module.scale": np.ones(())}, "'scale' occurs twice"),
        (lambda g: g | {"scale": np.array("x")}, "scale: expected numbers"),
    ],
)
def test_a_gradient_that_does_not_fit_is_refused(run, change, said):
    with pytest.raises(GradientError, match=said):
        run.sketcher().sketch(change(gradient(0)))


def test_parameters_that_joined_the_run_later_belong_to_it(tmp_path):
    head = stores.header(groups=2, k=8, sizes=[50, 50])
    stores.write_root(tmp_path / "run.zarr", head)
    late = TensorInfo("late", (20,), "float32", 1)
    stores.write_segment(tmp_path / "run.zarr", head, np.ones((3, 2, 8)), joined=(late,))
    sketcher = open_run(str(tmp_path / "run.zarr")).sketcher()
    assert sketcher.names == ("g0.weight", "g1.weight", "late")
    given = {"g0.weight": np.ones(50), "g1.weight": np.zeros(50), "late": np.zeros(20)}
    more = sketcher.sketch(given | {"late": np.ones(20)})
    assert (more.norm2.tolist(), sketcher.sketch(given).norm2.tolist()) == ([50, 20], [50, 0])
