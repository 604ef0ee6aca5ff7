"""The fold-hash sketch of parts of tensors that live on one device. Nothing waits for the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gradlog.integrations.sketch_tables import Part, tables
from gradlog.integrations.torch.sketching.device_fold import Target
from gradlog.integrations.torch.sketching.flats import Few, Flat, Folded
from gradlog.integrations.torch.sketching.triton_fold import fold_on
from gradlog.sketching.fold_hash import FoldHash


class DeviceSketch:
    """Sketches parts that live on one device.

    Parameters
    ----------
    S : FoldHash
        The random map.
    parts : sequence of Part
        What is sketched, in the order of the tensors handed to the call.
    groups : int
        Number of groups.
    device : torch.device
        Where the tensors are.
    dtype : torch.dtype
        Precision of the sums: float32 for gradients, float64 where sketches of parameters will be subtracted.

    Attributes
    ----------
    by : Fold
        What sketches, for the log.
    """

    def __init__(
        self, S: FoldHash, parts: Sequence[Part], groups: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self._S, self._parts, self._groups = S, parts, groups
        self._k, self._m = S.spec.k, S.spec.m
        self._to = Target(torch.device(device), dtype)
        t, sign, order = tables(S)
        self._t, self._order = self._to.put(t), self._to.put(order, torch.int64)
        self._sign = self._to.put(sign[order])
        self._codes: dict[str, torch.Tensor] = {}
        self._fold, self.by = fold_on(S, parts, groups, self._to)

    def zero(self) -> Folded:
        """Return what nothing folds to."""
        w = torch.zeros(self._groups, self._m, dtype=self._to.dtype, device=self._to.device)
        return Folded(w, torch.zeros(self._groups, dtype=self._to.wide, device=self._to.device), set())

    def fold(self, folded: Folded, flats: Sequence[Flat]) -> None:
        """Add flat real tensors, in the order of the parts; None counts as zeros."""
        w, norm2, _ = folded
        self._fold.add(w, norm2, flats)
        for part, x in zip(self._parts, flats, strict=True):
            if isinstance(x, Few) and len(x.index):
                w[part.group].index_add_(0, *self._fold_few(part, x))
                values = x.values.to(self._to.dtype)
                norm2[part.group] += torch.linalg.vector_norm(values, dtype=self._to.wide).square()

    def sketch(self, folded: Folded) -> tuple[torch.Tensor, torch.Tensor]:
        """Sketches (groups, k) and squared norms (groups,)."""
        v = folded.w[:, self._order] * self._sign
        if rest := -self._m % self._k:
            v = torch.nn.functional.pad(v, (0, rest))
        return v.view(self._groups, -1, self._k).sum(1), folded.norm2

    def _fold_few(self, part: Part, x: Few) -> tuple[torch.Tensor, torch.Tensor]:
        """Where single entries of a whole tensor go in the folded vector, and what is added there."""
        if part.name not in self._codes:
            codes = self._S.rows(part.name, -(-part.size // self._m))
            self._codes[part.name] = torch.from_numpy(np.ascontiguousarray(codes)).to(self._to.device)
        row, entry = x.index // self._m, x.index % self._m
        code = self._codes[part.name][row]
        sign = (1 - 2 * (code & 1)) * self._t[entry]
        return ((code >> 1) + entry) % self._m, x.values.to(self._to.dtype) * sign
