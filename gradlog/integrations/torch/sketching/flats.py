"""Coordinates of gradients in C order, as they are handed to a sketch."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import torch


class Few(NamedTuple):
    """Entries of a sparse tensor: their places in C order, ascending, and their values."""

    index: torch.Tensor
    values: torch.Tensor

    def dense(self, size: int) -> torch.Tensor:
        """Return all coordinates, (size,)."""
        return self.values.new_zeros(size).index_copy_(0, self.index, self.values)


Flat: TypeAlias = "torch.Tensor | Few | None"
"""Coordinates of a tensor; None where it is not there."""


def flat(tensor: torch.Tensor | None) -> Flat:
    """Real coordinates of a tensor in C order, (n,), a complex entry as two reals; of a sparse one those it has."""
    if tensor is None:
        return None
    t = tensor.detach()
    if t.layout is torch.sparse_coo and not t.is_complex():
        return _few(t.coalesce())
    if t.layout is not torch.strided:
        t = t.to_dense()
    if t.is_complex():
        t = torch.view_as_real(t.resolve_conj().contiguous())
    return t.reshape(-1)


def _few(t: torch.Tensor) -> Few:
    index = torch.zeros_like(t.indices()[0])
    for at, n in zip(t.indices(), t.shape, strict=False):
        index = index * n + at
    width = math.prod(t.shape[t.sparse_dim() :])
    index = (index[:, None] * width + torch.arange(width, device=index.device)).reshape(-1)
    return Few(index, t.values().reshape(-1))


class Folded(NamedTuple):
    """What parts of a row have been folded to, their squared norms (groups,), and on the CPU the groups they are of."""

    w: torch.Tensor
    norm2: torch.Tensor
    groups: set[int]
