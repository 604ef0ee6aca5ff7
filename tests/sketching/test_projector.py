"""The projector on every kind of array and group, to the bit of the sketch that it stands for."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradlog.errors import GradientError, UnsupportedError
from gradlog.format.header import SketchSpec, TensorInfo
from gradlog.sketching.fold_hash import FoldHash, exact_spec, from_spec, in_range
from gradlog.sketching.projector import projector
from tests.helpers.sketches import normal, sketch_of


def project(
    arrays: Sequence[NDArray[np.generic] | None], tensors: Sequence[TensorInfo], spec: SketchSpec, groups: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float64], int]:
    out, norm2 = np.full((groups, spec.k), np.nan, np.float32), np.full(groups, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        missing = projector(spec, tensors, groups).project(arrays, out, norm2)
    return out, norm2, missing


def one(shape: tuple[int, ...], dtype: str = "float32") -> list[TensorInfo]:
    return [TensorInfo("w", shape, dtype, 0)]


SPEC = FoldHash(8, m=64).spec


def test_groups_need_not_be_contiguous_and_missing_gradients_are_zeros() -> None:
    tensors = [TensorInfo(f"t{i}", (9, 20), "float32", g) for i, g in enumerate([2, 0, 2, 0, 1])]
    arrays = [normal(i, 9, 20) if i != 3 else None for i in range(5)]
    out, norm2, missing = project(arrays, tensors, SPEC, groups=3)
    assert missing == 1
    S = from_spec(SPEC)
    for g in range(3):
        mine = [(t.name, a.ravel()) for t, a in zip(tensors, arrays, strict=True) if t.group == g and a is not None]
        assert np.array_equal(out[g], sketch_of(S, mine))
        assert norm2[g] == pytest.approx(sum(np.sum(x.astype(np.float64) ** 2) for _, x in mine), rel=1e-6)


SIZES = st.lists(st.lists(st.integers(0, 150), min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=200)
@given(SIZES, st.integers(0, 2**32), st.sampled_from([(1, 1), (1, 9), (7, 7), (7, 24), (8, 64), (5, 6), (3, 40)]))
def test_small_groups_together_are_each_alone_to_the_bit(
    sizes: list[list[int]], seed: int, km: tuple[int, int]
) -> None:
    """Whatever meets whatever: many rows a tensor, several tensors a group, rounding included."""
    S = FoldHash(km[0], seed % 7, m=km[1])
    rng = np.random.default_rng(seed)
    groups = [[(f"{g}.{i}", n) for i, n in enumerate(members)] for g, members in enumerate(sizes)]
    values = [[(rng.normal(size=n) * 10.0 ** rng.integers(-6, 6, n)).astype(np.float32) for n in m] for m in sizes]
    if rng.random() < 0.2 and values[0][0].size:
        values[0][0][0] = np.inf
    out = np.zeros((len(sizes), S.spec.k), np.float32)
    with np.errstate(all="ignore"):
        S.scatter(groups)(np.concatenate([x for members in values for x in members]), out)
    for g, (names, members) in enumerate(zip(groups, values, strict=True)):
        alone = sketch_of(S, [(name, x) for (name, _), x in zip(names, members, strict=True)])
        assert np.array_equal(out[g], alone, equal_nan=True)


def test_large_and_small_groups_side_by_side() -> None:
    """Every kind of array in either, some without gradient; a group without numbers, one whose sum is zero."""
    spec = FoldHash(256).spec
    shapes = [(40, 30), (300, 200), (7,), (0,), (5, 3), (11,), (20_000,), (9,)]
    group = [0, 1, 0, 2, 3, 4, 5, 3]
    dtypes = ["float32", "float64", "float16", "float32", "complex64", "float32", "float32", "int32"]
    tensors = [TensorInfo(f"t{i}", *x) for i, x in enumerate(zip(shapes, dtypes, group, strict=True))]
    arrays = [normal(i, *shape).astype(d) for i, (shape, d) in enumerate(zip(shapes, dtypes, strict=True))]
    arrays[0] = np.asfortranarray(arrays[0])
    arrays[4] *= 1j - 2
    for missing in (set(), {2}, {0, 2, 5}):
        found = [None if i in missing else a for i, a in enumerate(arrays)]
        out, norm2, counted = project(found, tensors, spec, groups=6)
        assert counted == len(missing)
        S = from_spec(spec)
        for g in range(6):
            mine = [
                (t.name, np.ravel(a)) for t, a in zip(tensors, found, strict=True) if t.group == g and a is not None
            ]
            mine = [(n, x.view(x.real.dtype).astype(np.float32)) for n, x in mine]
            assert out[g].tobytes() == sketch_of(S, mine).tobytes()
            assert norm2[g] == pytest.approx(sum(np.sum(x.astype(np.float64) ** 2) for _, x in mine), rel=1e-6)


def test_the_tables_of_small_groups_are_bounded() -> None:
    """Many of them, as of groups="tensors": the largest go through the stages instead, with the same sums."""
    tensors = [TensorInfo(f"t{i}", (8000 - i,), "float32", i) for i in range(100)]
    arrays = [normal(i, 8000 - i) for i in range(100)]
    spec = FoldHash(32).spec
    tracemalloc.start()
    kept = projector(spec, tensors, 100)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 13e6  # 2**18 entries of 30 to 40 bytes; all 800,000 take twice that
    out, norm2 = np.empty((100, 32), np.float32), np.empty(100)
    kept.project(arrays, out, norm2)
    S = from_spec(spec)
    for i in (0, 50, 98, 99):
        assert np.array_equal(out[i], sketch_of(S, [(f"t{i}", arrays[i])]))


def test_no_state_is_carried_from_one_step_to_the_next() -> None:
    spec = FoldHash(7, m=24).spec  # the last row of the second stage is not full
    p, x = projector(spec, one((300,)), 1), normal(0, 300)
    out, norm2 = np.empty((3, 1, 7), np.float32), np.empty((3, 1))
    for step, array in enumerate([x, np.full(300, np.inf), x]):
        p.project([array], out[step], norm2[step])
    assert np.isnan(out[1]).any()
    assert np.array_equal(out[0], out[2])


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-15, 1.0, 1e18, 1e25, 1e34])
def test_squared_norms_hold_over_the_range_of_float32(scale: float) -> None:
    x = (normal(0, 20_000) * scale).astype(np.float32)
    _, norm2, _ = project([x], one((20_000,)), SPEC)
    assert norm2[0] == pytest.approx(float(np.sum(x.astype(np.float64) ** 2)), rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_reach_the_squared_norm_without_a_warning(value: float) -> None:
    x = normal(0, 500)
    x[123] = value
    out, norm2, _ = project([x], one((500,)), SPEC)
    assert not np.isfinite(norm2[0])
    assert np.count_nonzero(~np.isfinite(out)) == 1


def test_a_squared_norm_of_nan_is_not_computed_once_more() -> None:
    class Unread(np.ndarray[tuple[int], np.dtype[np.float32]]):
        def __getitem__(self, key: object) -> object:
            raise AssertionError("a second pass")

    assert np.isnan(in_range(np.nan, np.ones(300, np.float32).view(Unread)))


def test_complex_entries_count_as_pairs_and_layouts_as_c_order() -> None:
    z = (normal(0, 6, 10) + 1j * normal(1, 6, 10)).astype(np.complex64)
    pairs = np.stack([z.real, z.imag], axis=-1)
    expected = project([pairs], one((6, 10, 2)), SPEC)
    for given_array in (z, np.asfortranarray(z), z[::-1][::-1], z.astype(np.complex128)):
        found = project([given_array], one((6, 10), "complex64"), SPEC)
        assert np.array_equal(found[0], expected[0])


def test_scalars_and_empty_tensors() -> None:
    out, norm2, _ = project(
        [np.float32(3).reshape(()), np.empty((0, 4), np.float32)],
        [
            TensorInfo("scale", (), "float32", 0),
            TensorInfo("empty", (0, 4), "float32", 1),
        ],
        SPEC,
        groups=2,
    )
    assert norm2.tolist() == [9, 0]
    assert np.abs(out).sum(axis=1).tolist() == [3, 0]


def test_exact_mode_copies_and_pads() -> None:
    tensors = [TensorInfo("a", (2, 3), "float32", 1), TensorInfo("b", (2,), "complex64", 0)]
    tensors.append(TensorInfo("c", (1,), "float32", 1))
    a, b = normal(0, 2, 3), np.array([1 + 2j, 3 - 4j], np.complex64)
    out, norm2, missing = project([a, b, None], tensors, exact_spec([4, 7]), groups=2)
    assert missing == 1
    assert out.tolist() == [[1, 2, 3, -4, 0, 0, 0], [*a.ravel().tolist(), 0]]
    assert norm2 == pytest.approx([30, float(np.sum(a.astype(np.float64) ** 2))], rel=1e-6)


def test_no_dot_product_is_long_enough_to_wake_blas_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = []

    def spy(original: Callable[..., object]) -> Callable[..., object]:
        return lambda a, b: longest.append(a.shape[-1]) or original(a, b)

    monkeypatch.setattr(np, "dot", spy(np.dot))
    monkeypatch.setattr(np, "vecdot", spy(np.vecdot))
    project(
        [normal(0, 100_000), np.full(50_000, 1e30, np.float32)],
        [
            TensorInfo("a", (100_000,), "float32", 0),
            TensorInfo("b", (50_000,), "float32", 0),
        ],
        FoldHash(8).spec,
    )
    assert 0 < max(longest) <= 8192


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (normal(0, 3, 2), r"w: expected a gradient of shape \(2, 3\), got \(3, 2\)"),
        (np.ones((2, 3), bool), "w: expected a gradient of dtype float32, got bool"),
        (np.ones((2, 3), object), "w: expected a gradient of dtype float32, got object"),
        (np.ones((2, 3), np.complex64), "w: expected a gradient of dtype float32, got complex64"),
    ],
)
def test_a_wrong_array_is_named(array: NDArray[np.generic], message: str) -> None:
    with pytest.raises(GradientError, match=message):
        project([array], one((2, 3)), SPEC)


def test_bad_arguments() -> None:
    for k, m in [(0, 4), (-1, None), (5, 4)]:
        with pytest.raises(ValueError, match="k >= 1 and m >= k"):
            FoldHash(k, m=m)
    with pytest.raises(ValueError, match="'w' occurs more than once"):
        projector(SPEC, one((2,)) * 2, 1)
    with pytest.raises(ValueError, match=r"out must be float32 \(1, 8\)"):
        projector(SPEC, one((2,)), 1).project([normal(0, 2)], np.empty((1, 8)), np.empty(1))
    with pytest.raises(GradientError, match="expected 1 gradients, got 0"):
        project([], one((2,)), SPEC)
    for kind in ("exact/1", "fold-hash/9"):
        with pytest.raises(UnsupportedError, match="known kinds are 'fold-hash/1', 'fold-hash/2', and 'exact/1'"):
            from_spec(SketchSpec(kind, 4, 16, 0))
