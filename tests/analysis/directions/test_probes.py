"""Cosines of probes with steps and with each other, against the full gradients; other maps are refused."""

from __future__ import annotations

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run, probe_conflicts, probe_cosines
from gradlog.errors import SpecMismatchError

SHAPES = {"body": (40, 20), "head": (300,)}
STEPS, SPOILT = 60, 7


def gradient(t: int) -> dict[str, np.ndarray]:
    """A direction of its own for each step, and a common one that turns from along to against the probe."""
    rng = np.random.default_rng(t)
    common = np.cos(np.pi * t / STEPS)
    return {n: common * p + 0.7 * rng.standard_normal(p.shape).astype(np.float32) for n, p in probed().items()}


def probed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1000)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def flat(tree, *names) -> np.ndarray:
    return np.concatenate([np.ravel(tree[name]).astype(float) for name in names or SHAPES])


def cosine(a, b) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def record(path, **options):
    options = {"k": 32, "chunk": 16, "groups": "tensors", "on_error": "raise", **options}
    with gradlog.open(path, like=probed(), **options) as log:
        for t in range(STEPS):
            g = gradient(t)
            if t == SPOILT:
                g["head"][0] = np.nan
            log.step(g, step=10 * t)
    return open_run(str(path))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return record(tmp_path_factory.mktemp("runs") / "run.zarr", every=10)


FINITE = [t for t in range(STEPS) if t != SPOILT]


@pytest.mark.parametrize("names", [(), ("body",), ("head",)], ids=["whole", "body", "head"])
def test_of_exact_rows_the_cosine_is_that_of_the_gradients(tmp_path, names):
    run = record(tmp_path / "run.zarr", every=10, k="exact")
    found = probe_cosines(run, run.sketcher().sketch(probed()), *names)
    truth = [cosine(flat(probed(), *names), flat(gradient(t), *names)) for t in FINITE]
    np.testing.assert_allclose(found.value[FINITE], truth, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found.low, found.high)


def test_the_sketch_gives_the_cosine_within_its_interval(run):
    found = probe_cosines(run, run.sketcher().sketch(probed()))
    truth = np.array([cosine(flat(probed()), flat(gradient(t))) for t in FINITE])
    inside = (found.low[FINITE] <= truth) & (truth <= found.high[FINITE])
    assert np.mean(inside) > 0.85
    assert np.abs(found.value[FINITE] - truth).max() < 0.5
    assert found.steps.tolist() == [10 * t for t in range(STEPS)]


def test_a_step_with_nan_has_no_cosine(run):
    found = probe_cosines(run, run.sketcher().sketch(probed()))
    assert np.flatnonzero(np.isnan(found.value)).tolist() == [SPOILT]
    assert 10 * SPOILT not in [*found.along, *found.against]


def test_early_steps_point_along_the_probe_and_late_ones_against_it(run):
    found = probe_cosines(run, run.sketcher().sketch(probed()))
    assert {0, 50, 100} <= set(found.along.tolist())
    assert {500, 550, 590} <= set(found.against.tolist())
    assert max(found.along) < min(found.against)


def test_the_gradient_of_a_step_has_cosine_one_with_itself(run):
    found = probe_cosines(run, run.sketcher().sketch(gradient(20)))
    assert found.value[20] == pytest.approx(1, abs=1e-6)


def test_a_probe_without_a_gradient_has_no_cosine(run):
    nothing = run.sketcher().sketch(dict.fromkeys(SHAPES))
    assert np.isnan(probe_cosines(run, nothing).value).all()


def test_tasks_that_pull_apart_are_named_first(run):
    sketcher, p = run.sketcher(), probed()
    other = {name: np.random.default_rng(7).standard_normal(g.shape) for name, g in p.items()}
    tasks = {"a": p, "b": other, "c": {name: -g for name, g in p.items()}, "none": dict.fromkeys(p)}
    found = probe_conflicts({name: sketcher.sketch(g) for name, g in tasks.items()})
    assert (found[0].one, found[0].other, found[0].value) == ("a", "c", pytest.approx(-1))
    assert found[0].conflicting
    assert [c.conflicting for c in found].count(True) == 1
    assert [np.isnan(c.value) for c in found] == [False] * 3 + [True] * 3


def test_a_conflict_within_one_group_is_seen_there_alone(run):
    sketcher, p = run.sketcher(), probed()
    one, other = sketcher.sketch(p), sketcher.sketch({"body": -p["body"], "head": 3 * p["head"]})
    value = {group: probe_conflicts({"one": one, "other": other}, group)[0].value for group in (None, "body", "head")}
    assert value["body"] == pytest.approx(-1)
    assert value["head"] == pytest.approx(1)
    assert -1 < value[None] < 1


@pytest.mark.parametrize("options", [{"seed": 3}, {"k": 64}, {"groups": "all"}, {"k": "exact"}], ids=str)
def test_a_probe_of_another_map_is_refused(run, tmp_path, options):
    other = record(tmp_path / "other.zarr", every=10, **options)
    probe = other.sketcher().sketch(probed())
    with pytest.raises(SpecMismatchError, match="sketch the gradient by run"):
        probe_cosines(run, probe)
    with pytest.raises(SpecMismatchError, match="probe 'other' has other"):
        probe_conflicts({"own": run.sketcher().sketch(probed()), "other": probe})


def test_a_probe_of_a_run_with_the_same_map_is_taken(run, tmp_path):
    twin = record(tmp_path / "twin.zarr", every=10)
    found = probe_cosines(run, twin.sketcher().sketch(gradient(3)))
    assert found.value[3] == pytest.approx(1, abs=1e-6)


def test_wrong_arguments_are_named(run):
    probe = run.sketcher().sketch(probed())
    with pytest.raises(ValueError, match="no group 'tail'; the groups are body, head"):
        probe_cosines(run, probe, "tail")
    with pytest.raises(ValueError, match="expected two probes or more, got 1"):
        probe_conflicts({"one": probe})
