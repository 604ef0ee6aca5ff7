"""Parts as a device gets them, and what the map in numpy makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gradlog.integrations.sketch_tables import Part
from gradlog.sketching.fold_hash import FoldHash


def parts_and_flats(m: int) -> tuple[list[Part], list[Any]]:
    """Whole tensors and shards of odd sizes and several dtypes, some empty or absent; groups in no order."""
    sizes = [(1, 0), (m - 1, 0), (m, 0), (m + 1, 5), (11 * m, 0), (12 * m + 3, 2 * m + 1), (0, 0), (3, m - 1), (25, 0)]
    group = [0, 2, 1, 0, 3, 1, 2, 2, 0]
    parts = [Part(f"p{i}", g, n, at) for i, (g, (n, at)) in enumerate(zip(group, sizes, strict=True))]
    rng = np.random.default_rng(m)
    kinds = [torch.float32, torch.bfloat16, torch.float32, torch.float64, torch.float16] + 4 * [torch.float32]
    flats = [
        torch.tensor(rng.standard_normal(p.size, np.float32)).to(kind) for p, kind in zip(parts, kinds, strict=True)
    ]
    return parts, flats


def in_numpy(S: FoldHash, parts: list[Part], flats: list[Any]) -> tuple[Any, Any]:
    """Sketches and squared norms by the map of whole tensors, a shard with zeros around it."""
    sketch, norm2 = np.zeros((4, S.spec.k)), np.zeros(4)
    for part, x in zip(parts, flats, strict=True):
        if x is not None:
            whole = np.zeros(part.offset + part.size, np.float32)
            whole[part.offset :] = x.resolve_neg().float().numpy()
            sketch[part.group] += S.sketch(whole, part.name)
            norm2[part.group] += np.square(whole, dtype=np.float64).sum()
    return sketch, norm2
