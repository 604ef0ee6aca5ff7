"""The sketch against the cost of touching the gradient once: np.dot(x, x) at ResNet-18's size, one thread."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from gradlog.format.header import TensorInfo
from gradlog.sketching.fold_hash import FoldHash
from gradlog.sketching.projector import projector

CONVOLUTIONS = [(64, 3, 3, 3)] + [(64, 64, 3, 3)] * 4
for wide in (128, 256, 512):
    CONVOLUTIONS += [(wide, wide // 2, 3, 3), (wide, wide // 2, 1, 1)] + [(wide, wide, 3, 3)] * 3
SHAPES = CONVOLUTIONS + [(shape[0],) for shape in CONVOLUTIONS for _ in range(2)] + [(100, 512), (100,)]


@pytest.mark.parametrize("groups", [1, 16])
def test_project_against_dot(benchmark: Any, groups: int) -> None:
    measure(benchmark, groups, FoldHash)


@pytest.mark.parametrize("groups", [1, 16])
def test_compiled_project_against_dot(benchmark: Any, groups: int) -> None:
    pytest.importorskip("numba")
    from gradlog.sketching.compiled_fold import CompiledFoldHash

    measure(benchmark, groups, CompiledFoldHash)


def measure(benchmark: Any, groups: int, family: type[FoldHash]) -> None:
    """Take turns: the dot product, numpy's fold, and the one that is asked for."""
    tensors = [TensorInfo(f"t{i}", s, "float32", i * groups // len(SHAPES)) for i, s in enumerate(SHAPES)]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s, np.float32) for s in SHAPES]
    flat = np.concatenate([a.ravel() for a in arrays])
    projectors = [projector(FoldHash(256).spec, tensors, groups, one) for one in (FoldHash, family)]
    out, norm2 = np.empty((groups, 256), np.float32), np.empty(groups)
    times = []
    for _ in range(30):
        marks = [time.thread_time()]
        np.dot(flat, flat)
        marks.append(time.thread_time())
        for p in projectors:
            p.project(arrays, out, norm2)
            marks.append(time.thread_time())
        times.append(np.diff(marks))
    dot, plain, asked = np.array(times).T
    ratio = float(np.median(asked / dot))
    benchmark.extra_info |= {"d": flat.size, "ratio_to_dot": ratio}
    if family is not FoldHash:
        benchmark.extra_info |= {"ratio_to_numpy": float(np.median(asked / plain))}
    benchmark.pedantic(projectors[1].project, (arrays, out, norm2), rounds=30, warmup_rounds=3)
    print(f"\nd = {flat.size:,}, {groups} groups: sketch and norms cost {ratio:.2f} x np.dot(x, x) (least of each: "
          f"{asked.min() / dot.min():.2f}), {np.median(asked / plain):.2f} x numpy's fold")  # fmt: skip
