"""Random tensors, and the sketch of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.sketching.fold_hash import FoldHash

Tensors = Sequence[tuple[str, NDArray[np.float32]]]


def sketch_of(S: FoldHash, tensors: Tensors) -> NDArray[np.float32]:
    w, out = S.buffer(), np.empty(S.spec.k, np.float32)
    for name, x in tensors:
        S.fold_norm2(w, name, x)
    S.hash(w, out)
    return out


def normal(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
