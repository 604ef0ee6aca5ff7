"""Sketches that belong together add up: shards to the bit, groups to the sketch of the whole; and golden bytes."""

from __future__ import annotations

import hashlib

import numpy as np

from gradlog.format.header import TensorInfo
from gradlog.sketching.fold_hash import FoldHash
from gradlog.sketching.projector import projector


def test_golden_bytes_at_the_default_size() -> None:
    x = (np.arange(100_000, dtype=np.float32) % 97 - 48) / 7
    sketch = FoldHash(256, seed=3).sketch(x, "layer.weight")
    assert hashlib.blake2b(sketch.tobytes(), digest_size=16).hexdigest() == "4b77739190bc3bdf74f22932463c6899"


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
