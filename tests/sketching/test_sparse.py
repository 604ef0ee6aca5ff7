"""Sparse gradients are sketched from the entries that are there, to the bit as if the zeros were there too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradlog
from gradlog.analysis import open_run
from gradlog.errors import GradientError
from gradlog.format.header import TensorInfo
from gradlog.sketching.fold_hash import FoldHash, exact_spec
from gradlog.sketching.projector import projector
from gradlog.sketching.pytree import as_entries
from gradlog.sketching.sparse import Sparse


def projected(spec, tensors, arrays):
    out, norm2 = np.empty((2, spec.k), np.float32), np.empty(2)
    missing = projector(spec, tensors, 2).project(arrays, out, norm2)
    return out, norm2, missing


@given(st.integers(0, 2**32), st.sampled_from([40, 5_000, 90_000]), st.integers(0, 300), st.booleans())
def test_same_bits_as_the_dense_gradient(seed, rows, n, exact):
    """In a large group, in a small one, and as coordinates."""
    rng = np.random.default_rng(seed)
    tensors = [TensorInfo("table", (rows, 3), "float32", 0), TensorInfo("w", (11,), "float32", 1)]
    at = rng.integers(0, 3 * rows, n)
    places = np.unique(at)
    sparse = Sparse((rows, 3), places, rng.normal(size=len(places)).astype(np.float32))
    w = Sparse((11,), np.array([2, 7]), np.array([-0.0, 3.0], np.float32))
    spec = exact_spec([3 * rows, 11]) if exact else FoldHash(32, 5, 4096).spec
    few = projected(spec, tensors, [sparse, w])
    all_of_them = projected(spec, tensors, [sparse.dense(), w.dense()])
    assert (few[0] + 0.0).tobytes() == (all_of_them[0] + 0.0).tobytes()
    np.testing.assert_allclose(few[1], all_of_them[1], rtol=1e-6)


def test_another_shape_is_refused():
    with pytest.raises(GradientError, match=r"w: expected a gradient of shape \(3,\), got \(4,\)"):
        projected(
            FoldHash(4).spec,
            [TensorInfo("w", (3,), "float32", 0), TensorInfo("v", (1,), "float32", 1)],
            [Sparse((4,), np.array([0]), np.ones(1, np.float32)), None],
        )


@pytest.mark.parametrize(
    "tensor",
    [
        torch.sparse_coo_tensor([[2, 0, 2]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], (4, 2), check_invariants=True),
        torch.sparse_coo_tensor([[1, 0], [2, 1]], [1.5, 2.5], (2, 3), dtype=torch.bfloat16, check_invariants=True),
        torch.sparse_coo_tensor(
            torch.zeros((1, 0), dtype=torch.int64), torch.zeros((0, 2)), (4, 2), check_invariants=True
        ),
    ],
    ids=["rows given twice", "single entries of bfloat16", "none at all"],
)
def test_entries_of_a_torch_tensor(tensor):
    entries = as_entries(tensor)
    assert isinstance(entries, Sparse)
    np.testing.assert_array_equal(entries.dense(), tensor.to_dense().float().numpy())
    assert (np.diff(entries.places) > 0).all()


def test_sparse_gradients_of_any_loop(tmp_path):
    """And of a half batch, which is compared entry by entry."""
    g = torch.sparse_coo_tensor([[1, 3]], [[3.0], [4.0]], (5, 1), check_invariants=True)
    with gradlog.open(tmp_path / "r.zarr", k="exact", on_error="raise") as log:
        log.step({"table": g})
        log.step({"table": g.to_dense()}, half={"table": 2 * g})
    run = open_run(tmp_path / "r.zarr")
    np.testing.assert_array_equal(run.sketch.compute()[:, 0], [[0, 3, 0, 4, 0]] * 2)
    assert run.group_norm2.tolist() == [[25], [25]]
