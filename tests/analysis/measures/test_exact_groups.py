"""Groups whose entries fall into columns of their own: the sketch shows them without error."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradlog
from gradlog.analysis import analyze, open_run, to_json
from gradlog.analysis.comparison.divergence import cosines
from gradlog.analysis.measures.exact_groups import exact_groups
from gradlog.analysis.measures.interpretation import verdict
from gradlog.format.header import FULL_BITS, RunHeader, SegmentHeader, SketchSpec, TensorInfo
from gradlog.sketching.fold_hash import FoldHash

K, T = 64, 240
SHAPES = {"scale": (), "bias": (3,), "few.a": (2,), "few.b": (1, 2), "weight": (900,)}
GROUPS = {"scale": "scale", "bias": "bias", "few": "few", "weight": "weight"}


def gradients(seed: int, loud: str = "") -> dict[str, np.ndarray]:
    """Rows that drift under noise, (T, *shape) each."""
    r = np.random.default_rng(seed)
    walks = {n: np.cumsum(r.normal(size=(T, *s)), 0) * 0.3 + r.normal(size=(T, *s)) for n, s in SHAPES.items()}
    return {n: (100.0 if n == loud else 1.0) * np.asarray(x, np.float32) for n, x in walks.items()}


def record(path, rows, k=K, seed=3):
    with gradlog.open(path, like={n: x[0] for n, x in rows.items()}, k=k, seed=seed, groups=GROUPS) as log:
        for t in range(T):
            log.step({n: x[t] for n, x in rows.items()})
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collisions")
    rows = gradients(0)
    return record(folder / "sketch.zarr", rows), record(folder / "full.zarr", rows, k="exact")


def test_groups_without_collisions_have_the_numbers_of_their_full_gradients(runs):
    sketched, full = (analyze(path) for path in runs)
    exact = to_json(sketched)["exact_groups"]
    assert exact[:2] == ["scale", "bias"]
    assert "weight" not in exact
    names = [f"group_{n}" for n in ("kappa", "gain", "rank", "rank_estimate", "path_length", "participation_rank")]
    for group in exact:
        mine, true = (ds.sel(group=group) for ds in (sketched, full))
        for name in names:
            np.testing.assert_allclose(mine[name], true[name], rtol=1e-5, atol=1e-6, err_msg=f"{name} {group}")
        for name in ("kappa", "gain", "path_length"):
            ends = (mine[f"group_{name}{end}"].values for end in ("_low", "", "_high"))
            assert all(np.array_equal(x, mine[f"group_{name}"].values) for x in ends)
    weight = sketched.sel(group="weight", predictor="last")
    assert float(weight.group_kappa_low) < float(weight.group_kappa) < float(weight.group_kappa_high)


def test_the_order_of_a_scalar_parameter_is_judged(runs):
    document = to_json(analyze(runs[0]))
    assert verdict(document["by_group"]["scale"]["kappa"]["last"]) != "-"


def test_groups_without_error_do_not_widen_the_interval_of_the_whole(tmp_path):
    rows = gradients(1, loud="bias")  # nearly all of the energy is in a group that has no error
    found = analyze(record(tmp_path / "loud.zarr", rows)).sel(predictor="last")
    half = float(found.kappa_high - found.kappa_low) / 2
    share = float(found.group_energy.sel(group="weight") / found.energy)
    assert half < share * float(found.kappa)
    full = analyze(record(tmp_path / "full.zarr", rows, k="exact")).sel(predictor="last")
    assert abs(float(found.kappa - full.kappa)) <= 1.5 * half


def test_windows_share_the_exactness_of_their_groups(runs):
    found = analyze(runs[0], ["last"], window=60)
    shares = found.sel(predictor="last", group=["scale", "bias"])
    np.testing.assert_array_equal(shares.window_group_kappa_low, shares.window_group_kappa_high)


def test_cosines_of_runs_that_the_sketch_shows_exactly_are_points(tmp_path):
    small = {"bias": (3,), "scale": ()}
    r = np.random.default_rng(2)
    paths = []
    for name in ("one", "two"):
        rows = {n: r.normal(size=(T, *s)).astype(np.float32) for n, s in small.items()}
        path = tmp_path / f"{name}.zarr"
        with gradlog.open(path, like={n: x[0] for n, x in rows.items()}, k=K, seed=3, groups="tensors") as log:
            for t in range(T):
                log.step({n: x[t] for n, x in rows.items()})
        paths.append((open_run(str(path)), np.concatenate([x.reshape(T, -1) for x in rows.values()], axis=1)))
    (a, A), (b, B) = paths
    found = cosines(a, b)
    np.testing.assert_array_equal(found.low, found.high)
    true = np.sum(A * B, axis=1) / np.linalg.norm(A, axis=1) / np.linalg.norm(B, axis=1)
    np.testing.assert_allclose(found.value, true, rtol=1e-4, atol=1e-6)


def header(k, sizes, seed=0, m=None, bits=FULL_BITS) -> RunHeader:
    spec = FoldHash(k, seed, m).spec
    tensors = tuple(TensorInfo(f"t{i}", (s,), "float32", i // 2) for i, s in enumerate(sizes))
    names = tuple(f"g{i}" for i in range((len(sizes) + 1) // 2))
    return RunHeader(spec, names, tensors, 16, sketch_bits=bits)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_a_group_is_exact_where_no_two_unit_vectors_meet(k, sizes, seed):
    found = header(k, sizes, seed, m=max(k, 64))
    sketch = FoldHash(k, seed, max(k, 64))
    for group, exact in enumerate(exact_groups(found)):
        images = [
            sketch.sketch(row, t.name) for t in found.tensors if t.group == group for row in np.eye(t.size, dtype="f4")
        ]
        gram = np.stack(images) @ np.stack(images).T
        assert exact == np.array_equal(gram, np.eye(len(gram)))


def test_parameters_that_joined_later_count_in_what_a_group_can_show():
    early = header(64, [1, 1])
    late = TensorInfo("late", (64,), "float32", 0)
    assert exact_groups(early) == (True,)
    whole = early.with_joined([SegmentHeader(joined=(late, early.tensors[0]))])
    assert exact_groups(whole) == (False,)
    assert whole.tensors == (*early.tensors, late)


def test_rounded_sketches_unknown_maps_and_vast_ones_are_not_called_exact():
    plain = header(64, [1, 1])
    assert exact_groups(plain) == (True,)
    assert exact_groups(dataclasses.replace(plain, sketch_bits=12)) == (False,)
    assert exact_groups(dataclasses.replace(plain, sketch=SketchSpec("fold-hash/9", 64, 2**15, 0))) == (False,)
    assert exact_groups(dataclasses.replace(plain, sketch=SketchSpec("fold-hash/1", 64, 2**31, 0))) == (False,)
