"""``fold-hash/2``: the map by its definition on every path, groups without error, and a bound on all other meetings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradlog
from gradlog.analysis import analyze, open_run
from gradlog.analysis.audit.run import audit_run
from gradlog.analysis.comparison.divergence import require_same_map
from gradlog.analysis.measures.exact_groups import exact_groups
from gradlog.errors import CorruptRunError, GradlogWarning, SpecMismatchError
from gradlog.format.header import RunHeader, SketchSpec, TensorInfo
from gradlog.sketching.compiled_fold import CompiledFoldHash
from gradlog.sketching.fold_hash import FoldHash, from_spec, placed
from gradlog.sketching.projector import projector
from tests.helpers import reference
from tests.helpers.sketches import normal

SHAPES = {"w": (30, 11), "scale": (7,), "shift": (7,), "gain": ()}
GROUPS = {"w": 0, "scale": 1, "shift": 1, "gain": 2}


def tensors(k: int, shapes=SHAPES, groups=GROUPS):
    return placed([TensorInfo(n, s, "float32", groups[n]) for n, s in shapes.items()], k)


@pytest.mark.parametrize(("k", "m"), [(14, 64), (14, 28), (20, 50), (16, 2**15)])
@pytest.mark.parametrize("family", [FoldHash, CompiledFoldHash])
def test_every_path_gives_the_map_of_the_definition(k, m, family):
    spec, own = SketchSpec("fold-hash/2", k, m, 3), tensors(k)
    assert [t.place for t in own] == [None, 0, 7, 0]
    if m < 2**10:
        arrays = [normal(i, t.size).reshape(t.shape) for i, t in enumerate(own)]
        matrices = [reference.fold_hash_matrix(spec, t.name, t.size, t.place) for t in own]
        images = [S @ x.ravel().astype(np.float64) for S, x in zip(matrices, arrays, strict=True)]
        expected = [sum(y for y, t in zip(images, own, strict=True) if t.group == g) for g in range(3)]
        found, norm2 = np.empty((3, k), np.float32), np.empty(3)
        projector(spec, own, 3, family).project(arrays, found, norm2)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_allclose(norm2[1:], np.square(found[1:].astype(np.float64)).sum(axis=1), rtol=1e-6)
    assert exact_groups(RunHeader(spec, ("a", "b", "c"), own, 16)) == (False, True, True)


@given(st.integers(1, 40), st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 99))
def test_groups_of_at_most_k_are_permuted_with_signs_and_others_are_not_called_exact(k, sizes, seed):
    own = placed([TensorInfo(f"t{i}", (s,), "float32", i // 2) for i, s in enumerate(sizes)], k)
    spec = SketchSpec("fold-hash/2", k, max(k, 64), seed)
    header = RunHeader(spec, tuple(f"g{i}" for i in range((len(sizes) + 1) // 2)), own, 16)
    S = from_spec(spec, own)
    for size, exact, g in zip(header.group_sizes(), exact_groups(header), range(len(header.groups)), strict=True):
        assert exact == (0 < size <= k)
        columns = np.concatenate([S.columns(t.name, t.size) for t in own if t.group == g])
        assert not exact or len(set(columns.tolist())) == size


def test_two_entries_meet_with_probability_one_in_k_or_less():
    """Over seeds; neighbours of one block never do. The signs are those of ``fold-hash/1`` and are tested there."""
    k, m, draws = 8, 64, 400
    columns = np.stack([FoldHash(k, seed, m, {})._places() % k for seed in range(draws)])
    meet = (columns[:, :, None] == columns[:, None, :]).mean(axis=0)
    block = np.arange(m) // k
    same = block[:, None] == block[None, :]
    assert not meet[same & ~np.eye(m, dtype=bool)].any()
    assert abs(meet[~same].mean() - 1 / k) < 0.002
    assert meet[~same].max() < 1 / k + 5.5 * np.sqrt(1 / k / draws)


def test_a_place_outside_the_folded_vector_is_refused():
    header = RunHeader(SketchSpec("fold-hash/2", 8, 64, 0), ("g",), (TensorInfo("w", (5,), "float32", 0, 60),), 16)
    with pytest.raises(CorruptRunError, match="must end within"):
        RunHeader.from_attrs(header.to_attrs())
    good = dataclasses.replace(header, tensors=(TensorInfo("w", (4,), "float32", 0, 60),))
    assert RunHeader.from_attrs(good.to_attrs()).tensors == good.tensors


def record(path, mode="w-", begin=0, extra=(), **options):
    rng = np.random.default_rng(begin)
    steps = [{n: rng.standard_normal(s) for n, s in SHAPES.items()} for _ in range(40)]
    options = {"groups": "tensors", "k": 16, "on_error": "raise", **options}
    with gradlog.open(path, like=steps[0], mode=mode, **options) as log:
        for name in extra:
            log.join({name: np.zeros(9)})
        for grads in steps:
            log.step(grads)
    return log


def test_a_run_has_the_numbers_of_its_gradients_where_groups_are_small(tmp_path):
    log = record(tmp_path / "r.zarr", sketch="fold-hash/2")
    record(tmp_path / "full.zarr", k="exact")
    found, true = (analyze(tmp_path / f"{name}.zarr", ["last"]) for name in ("r", "full"))
    small = ["scale", "shift", "gain"]
    np.testing.assert_allclose(found.group_kappa.sel(group=small), true.group_kappa.sel(group=small), rtol=1e-5)
    np.testing.assert_array_equal(found.group_kappa_low.sel(group=small), found.group_kappa_high.sel(group=small))
    assert [line for line in audit_run(tmp_path / "r.zarr").lines if line.status == "FAIL"] == []
    probe = open_run(tmp_path / "r.zarr").sketcher().sketch({n: np.ones(s) for n, s in SHAPES.items()})
    np.testing.assert_array_equal(np.square(probe.sketch.astype(np.float64)).sum(axis=1)[1:], probe.norm2[1:])
    assert log.header.sketch.kind == "fold-hash/2"


def test_a_continued_run_keeps_its_kind_and_kinds_are_not_compared(tmp_path):
    kinds = ("fold-hash/1", "fold-hash/2")
    for kind, other in zip(kinds, reversed(kinds), strict=True):
        path = tmp_path / f"{kind[-1]}.zarr"
        record(path, sketch=kind)
        assert record(path, "a", 40, sketch=other).header.sketch.kind == kind
        assert open_run(path).n_steps == 80
    with pytest.raises(SpecMismatchError, match="differ in their kind"):
        require_same_map(*(open_run(tmp_path / f"{kind[-1]}.zarr") for kind in kinds))
    with pytest.raises(ValueError, match="sketch must be one of 'fold-hash/1', 'fold-hash/2'"):
        record(tmp_path / "x.zarr", sketch="fold-hash/3")


def test_what_joins_does_so_where_there_is_an_error_already(tmp_path):
    with pytest.warns(GradlogWarning, match="parameters joined"):
        log = record(tmp_path / "r.zarr", sketch="fold-hash/2", extra=["scale.more"])
    assert log.header.tensors[-1] == TensorInfo("scale.more", (9,), "float64", 0)
    with pytest.raises(SpecMismatchError, match="stored without error"):
        record(tmp_path / "s.zarr", sketch="fold-hash/2", extra=["more"], exclude="^w$")
