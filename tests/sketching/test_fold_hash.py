"""The sketch against its definition, in every process and on every machine the same, and its laws."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlog.format.header import SketchSpec
from gradlog.sketching.fold_hash import FoldHash, default_m, from_spec
from tests.helpers import reference
from tests.helpers.sketches import normal, sketch_of


@pytest.mark.parametrize(("k", "m"), [(1, 1), (1, 9), (7, 7), (7, 24), (8, 64), (5, 6)])
def test_agrees_with_the_dense_matrix(k: int, m: int) -> None:
    S = FoldHash(k, seed=-3, m=m)
    tensors = [("a.weight", normal(0, 5 * m + 3)), ("a.bias", normal(1, 2)), ("none", normal(2, 0))]
    expected = sum(reference.fold_hash_matrix(S.spec, n, x.size) @ x.astype(np.float64) for n, x in tensors)
    np.testing.assert_allclose(sketch_of(S, tensors), expected, rtol=1e-5, atol=1e-5)


def test_the_default_size_agrees_with_the_dense_matrix_where_it_is_not_zero() -> None:
    S = FoldHash(256)
    x = np.zeros(2 * S.spec.m + 5, np.float32)
    x[[0, S.spec.m - 1, S.spec.m, 2 * S.spec.m + 4]] = 1, 2, 4, 8
    where = np.flatnonzero(x)
    matrix = reference.fold_hash_matrix(S.spec, "w", x.size)[:, where]
    assert np.array_equal(S.sketch(x, "w"), matrix @ x[where])


# Entries that are multiples of 2**-23 in [-1, 1), made by integer arithmetic alone.
FIXED = """
import sys
import numpy as np
from gradlog.sketching.fold_hash import FoldHash
u = np.arange(100_003, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(8)
x = (u.astype(np.int32) - 2**23).astype(np.float32) / np.float32(2**23)
sys.stdout.write(FoldHash(k=8, seed=5).sketch(x, "layer.weight").astype("<f4").tobytes().hex())
"""
GOLDEN = "4d90ddc18663834266abd9c1b8ae34c1aa058c4213c3a84207612f42b89c21c2"


def simd_of_this_machine() -> str:
    return " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", []))


@pytest.mark.parametrize("environment", [{}, {"PYTHONHASHSEED": "7"}, {"NPY_DISABLE_CPU_FEATURES": None}])
def test_golden_bytes_in_a_fresh_process_with_and_without_vector_instructions(environment: dict[str, str]) -> None:
    env = os.environ | {key: simd_of_this_machine() if v is None else v for key, v in environment.items()}
    fresh = subprocess.run([sys.executable, "-c", FIXED], capture_output=True, text=True, check=True, env=env)
    assert fresh.stdout == GOLDEN


def test_a_spec_regenerates_its_map() -> None:
    S, x = FoldHash(5, seed=9, m=40), normal(0, 333)
    assert from_spec(SketchSpec("fold-hash/1", 5, 40, 9)).sketch(x, "w").tobytes() == S.sketch(x, "w").tobytes()
    others = [FoldHash(5, 8, 40), FoldHash(5, 9, 41), FoldHash(4, 9, 40)]
    assert all(o.sketch(x, "w").tobytes() != S.sketch(x, "w").tobytes() for o in others)
    assert S.sketch(x, "v").tobytes() != S.sketch(x, "w").tobytes()


@pytest.mark.parametrize("k", [1, 100, 256, 1024, 1025, 4096, 16384])
def test_the_default_m_keeps_the_excess_of_the_variance_below_a_tenth(k: int) -> None:
    assert (3 * k + 6) / default_m(k) < 0.1


@given(st.sampled_from([np.float64, np.float16, np.int32, np.int64]))
def test_other_dtypes_are_rounded_to_float32(dtype: type) -> None:
    x = (normal(3, 500) * 50).astype(dtype)
    S = FoldHash(6, m=64)
    assert np.array_equal(S.sketch(x, "w"), S.sketch(x.astype(np.float32), "w"))
