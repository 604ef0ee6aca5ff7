"""The laws of the sketch: linear, unbiased, additive over shards, of bounded variance, the same everywhere."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlog.errors import GradientError, UnsupportedError
from gradlog.schema import SketchSpec, TensorInfo
from gradlog.sketch import FoldHash, exact_spec, from_spec, projector

GOLDEN = "import numpy as np; from gradlog.sketch import FoldHash; import hashlib; "
GOLDEN += "x = (np.arange(100_000, dtype=np.float32) % 97 - 48) / 7; "
GOLDEN += (
    "print(hashlib.blake2b(FoldHash(256, seed=3).sketch(x, 'layer.weight').tobytes(), digest_size=16).hexdigest())"
)

SMALL = FoldHash(k=16, seed=1, m=64)


def dense(S: FoldHash, name: str, d: int) -> np.ndarray:
    """The matrix of the map, one column a coordinate: slow and obvious."""
    return np.stack([S.sketch(e, name) for e in np.eye(d, dtype=np.float32)], axis=1)


def variance_factor(vectors: list[np.ndarray], k: int, seeds: int, sketch: object = None) -> tuple[float, float]:
    """(k/2) Var ||Sx||^2 over seeds, ||x|| = 1, and its standard error."""
    norms = []
    for seed in range(seeds):
        S = FoldHash(k, seed, m=1024)
        w, out = S.buffer(), np.empty(k, np.float32)
        for i, x in enumerate(vectors):
            S.fold(w, f"tensor{i}", x)
        S.hash(w, out) if sketch is None else out.__setitem__(slice(None), sketch(vectors, k, seed))
        norms.append(float(np.sum(out.astype(np.float64) ** 2)) / sum(float(x @ x) for x in vectors))
    squared = (np.array(norms) - 1) ** 2
    return squared.mean() * k / 2, squared.std() / np.sqrt(seeds) * k / 2


def test_golden_bytes_here_and_in_another_process() -> None:
    fresh = subprocess.run([sys.executable, "-c", GOLDEN], capture_output=True, text=True, check=True).stdout.strip()
    x = (np.arange(100_000, dtype=np.float32) % 97 - 48) / 7
    here = hashlib.blake2b(FoldHash(256, seed=3).sketch(x, "layer.weight").tobytes(), digest_size=16).hexdigest()
    assert here == fresh == "4b77739190bc3bdf74f22932463c6899"


@given(st.integers(0, 2**32), st.floats(-3, 3), st.integers(1, 300))
def test_linear(seed: int, a: float, d: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, d))
    combined = SMALL.sketch(x + a * y, "w")
    np.testing.assert_allclose(combined, SMALL.sketch(x, "w") + a * SMALL.sketch(y, "w"), atol=1e-4)


@given(st.integers(0, 2**32), st.integers(1, 400), st.lists(st.integers(0, 400), max_size=5))
def test_shards_add_up_to_the_bit(seed: int, d: int, cuts: list[int]) -> None:
    x = np.random.default_rng(seed).normal(size=d).astype(np.float32)
    whole, parts = SMALL.buffer(), SMALL.buffer()
    SMALL.fold(whole, "w", x)
    edges = sorted({0, d, *(c for c in cuts if c < d)})
    for low, high in itertools.pairwise(edges):
        SMALL.fold(parts, "w", x[low:high], offset=low)
    assert np.array_equal(whole, parts)


def test_unbiased_inner_products() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 500)).astype(np.float32)
    products = [
        float(FoldHash(32, seed, m=128).sketch(x, "w") @ FoldHash(32, seed, m=128).sketch(y, "w"))
        for seed in range(600)
    ]
    error = np.std(products) / np.sqrt(len(products))
    assert abs(np.mean(products) - float(x @ y)) < 4 * error


def test_every_column_of_the_matrix_is_a_unit_vector() -> None:
    assert np.array_equal(np.abs(dense(SMALL, "w", 150)).sum(axis=0), np.ones(150))


ADVERSARIAL = {
    "one coordinate": [np.eye(1, 5000, 17, dtype=np.float32)[0]],
    "one-hot column": [np.ravel(np.eye(64, dtype=np.float32)[3] * np.ones((128, 1), np.float32))],
    "constant": [np.ones(6000, np.float32)],
    "period k": [np.tile(np.eye(1, 64, 5, dtype=np.float32)[0], 100)],
    "period m": [np.tile(np.eye(1, 1024, 5, dtype=np.float32)[0], 12)],
    "rank one": [np.ravel(np.outer(np.linspace(-1, 1, 80), np.linspace(1, 2, 90))).astype(np.float32)],
    "embedding rows": [np.ravel(np.where(np.arange(200)[:, None] % 40 == 0, np.ones(32), 0)).astype(np.float32)],
    "equal tensors": [np.ones(700, np.float32)] * 8,
}


@pytest.mark.parametrize("case", ADVERSARIAL)
def test_variance_on_adversarial_vectors(case: str) -> None:
    factor, error = variance_factor(ADVERSARIAL[case], k=64, seeds=1500)
    bound = 1 + (3 * 64 + 6) / 1024  # proven for this small m; the default m keeps it below 1.10
    assert factor < max(1.15, bound) + 4 * error


def test_the_variance_test_fails_for_a_sketch_that_drops_coordinates() -> None:
    def masked(vectors: list[np.ndarray], k: int, seed: int) -> np.ndarray:
        x = np.concatenate(vectors)
        rng = np.random.default_rng(seed)
        kept = rng.choice(len(x), k, replace=False)
        return x[kept] * np.sqrt(len(x) / k)

    factor, error = variance_factor(ADVERSARIAL["embedding rows"], k=64, seeds=1500, sketch=masked)
    assert factor > 1.15 + 4 * error


def test_groups_sum_to_the_sketch_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    tensors = [TensorInfo(f"t{i}", (7, 30), "float32", i % 3) for i in range(6)]
    arrays = [rng.normal(size=(7, 30)) for _ in tensors]
    spec = FoldHash(32).spec
    out, norm2 = np.empty((3, 32), np.float32), np.empty(3)
    projector(spec, tensors, 3).project(arrays, out, norm2)
    whole, total = np.empty((1, 32), np.float32), np.empty(1)
    projector(spec, [TensorInfo(t.name, t.shape, t.dtype, 0) for t in tensors], 1).project(arrays, whole, total)
    np.testing.assert_allclose(out.sum(axis=0), whole[0], atol=1e-4)
    np.testing.assert_allclose(norm2.sum(), total[0], rtol=1e-9)
    np.testing.assert_allclose(total[0], sum(float(np.sum(a.astype(np.float32) ** 2.0)) for a in arrays), rtol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_exact_mode_keeps_the_coordinates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=5).astype(np.float32)]
    tensors = [TensorInfo("a", (3, 4), "float32", 0), TensorInfo("b", (5,), "float32", 1)]
    out, norm2 = np.empty((2, 12), np.float32), np.empty(2)
    projector(exact_spec([12, 5]), tensors, 2).project(arrays, out, norm2)
    assert np.array_equal(out[0], arrays[0].ravel())
    assert np.array_equal(out[1], np.pad(arrays[1], (0, 7)))


def test_norms_beyond_float32_and_nan() -> None:
    tensors = [TensorInfo("a", (4,), "float64", 0)]
    p, out, norm2 = projector(FoldHash(8).spec, tensors, 1), np.empty((1, 8), np.float32), np.empty(1)
    p.project([np.full(4, 1e25)], out, norm2)
    np.testing.assert_allclose(norm2, 4e50, rtol=1e-6)
    p.project([np.array([1.0, np.nan, 0, 0])], out, norm2)
    assert np.isnan(norm2[0])
    assert p.project([None], out, norm2) == 1
    assert not out.any()


def test_layouts_that_are_not_contiguous() -> None:
    x = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    tensors = [TensorInfo("a", (5, 4, 6), "float32", 0)]
    a, b, norm2 = np.empty((1, 8), np.float32), np.empty((1, 8), np.float32), np.empty(1)
    p = projector(FoldHash(8).spec, tensors, 1)
    p.project([x.transpose(2, 0, 1)], a, norm2)
    p.project([np.ascontiguousarray(x.transpose(2, 0, 1))], b, norm2)
    assert np.array_equal(a, b)


def test_errors_name_the_tensor_and_the_shapes() -> None:
    p = projector(FoldHash(8).spec, [TensorInfo("fc.weight", (2, 3), "float32", 0)], 1)
    out, norm2 = np.empty((1, 8), np.float32), np.empty(1)
    with pytest.raises(GradientError, match=r"fc\.weight.*\(2, 3\).*\(3, 2\)"):
        p.project([np.ones((3, 2))], out, norm2)
    with pytest.raises(GradientError, match="expected 1 gradients, got 2"):
        p.project([np.ones((2, 3))] * 2, out, norm2)
    with pytest.raises(UnsupportedError, match="fold-hash/1"):
        from_spec(SketchSpec("gauss/9", 8, 0, 0))
    with pytest.raises(ValueError, match="m >= k"):
        FoldHash(8, m=4)
