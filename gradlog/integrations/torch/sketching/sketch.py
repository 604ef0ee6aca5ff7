"""The fold-hash sketch of parts of tensors: on a device in torch, and in float64 in numpy.

Both use the random numbers of :class:`gradlog.sketching.fold_hash.FoldHash`, so their results are sketches of the
same map; only the order of additions differs. A *part* is a range of a tensor's coordinates in C order: a whole
tensor, or the shard that one rank holds. Sketches of parts add up to the sketch of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gradlog.errors import UnsupportedError
from gradlog.format.header import RunHeader
from gradlog.integrations.sketch_tables import Part, pieces, tables
from gradlog.integrations.torch.sketching.device_sketch import DeviceSketch
from gradlog.integrations.torch.sketching.flats import Few, Flat, Folded
from gradlog.integrations.torch.types import Floats
from gradlog.recorder.rows.fold import Fold, choose
from gradlog.sketching.fold_hash import FoldHash, from_spec


class PartSketch(Protocol):
    """Sketches parts in two stages, so that one row can be added up from several calls."""

    @property
    def by(self) -> Fold | None:
        """What sketches, for the log; None where coordinates are stored as they are."""

    def zero(self) -> Folded:
        """Return what nothing folds to."""

    def fold(self, folded: Folded, flats: Sequence[Flat]) -> None:
        """Add flat real tensors, in the order of the parts; None counts as zeros."""

    def sketch(self, folded: Folded) -> tuple[torch.Tensor, torch.Tensor]:
        """Sketches (groups, k) and squared norms (groups,)."""


def sketch_on(device: torch.device, header: RunHeader, parts: Sequence[Part], precise: bool, force: bool) -> PartSketch:
    """Sketch of parts that live on one device, which is to be subtracted (``precise``) or not.

    Raises
    ------
    UnsupportedError
        The device does not have the precision.
    """
    groups = len(header.groups)
    if header.sketch.exact:
        return _ExactSketch(parts, groups, header.sketch.k)
    if device.type == "cpu" and not force:
        by = choose(header)
        return _HostSketch(from_spec(header.sketch, header.tensors, by.family), parts, groups, by)
    if precise and device.type == "mps":
        raise UnsupportedError("updates need float64, which Apple's GPU does not have")
    S = from_spec(header.sketch, header.tensors)
    return DeviceSketch(S, parts, groups, device, torch.float64 if precise else torch.float32)


class _HostSketch:
    """The same on the CPU, every sum in float64. ``by``: what computes it, for the log."""

    def __init__(self, S: FoldHash, parts: Sequence[Part], groups: int, by: Fold) -> None:
        self._S, self._parts, self._groups, self.by = S, parts, groups, by
        _, sign, self._order = tables(S)
        self._sign = sign.astype(np.float64)

    def zero(self) -> Folded:
        w = torch.zeros(self._groups, 2 * self._S.spec.m, dtype=torch.float64, device="cpu")
        return Folded(w, w.new_zeros(self._groups), set())

    def fold(self, folded: Folded, flats: Sequence[Flat]) -> None:
        W, norm2 = folded.w.numpy(), folded.norm2.numpy()
        with np.errstate(all="ignore"):
            for part, x in zip(self._parts, flats, strict=True):
                if x is not None and part.size:
                    folded.groups.add(part.group)
                    norm2[part.group] += self._fold(W[part.group], part, x)

    def sketch(self, folded: Folded) -> tuple[torch.Tensor, torch.Tensor]:
        m, k = self._S.spec.m, self._S.spec.k
        out = np.zeros((self._groups, k))
        with np.errstate(all="ignore"):
            for g in folded.groups:
                w = folded.w[g].numpy()
                v = ((w[:m] + w[m:]) * self._sign)[self._order]
                np.pad(v, (0, -m % k)).reshape(-1, k).sum(axis=0, out=out[g])
        return torch.from_numpy(out), folded.norm2

    def _fold(self, w: NDArray[np.float64], part: Part, tensor: torch.Tensor | Few) -> float:
        tensor = tensor.dense(part.size) if isinstance(tensor, Few) else tensor
        x = (tensor.float() if tensor.dtype.itemsize < 4 else tensor).cpu().numpy()
        return sum(
            self._S.fold_wide(w[shift + column :][: stop - start], column, x[start:stop], sign < 0)
            for start, stop, column, shift, sign in pieces(self._S, part)
        )


class _ExactSketch:
    """The coordinates themselves, zero padded, in float64; for small models."""

    by = None

    def __init__(self, parts: Sequence[Part], groups: int, k: int) -> None:
        self._parts, self._shape = parts, (groups, k)

    def zero(self) -> Folded:
        w = torch.zeros(self._shape, dtype=torch.float64, device="cpu")
        return Folded(w, w.new_zeros(self._shape[0]), set())

    def fold(self, folded: Folded, flats: Sequence[Flat]) -> None:
        at = [0] * self._shape[0]
        for part, x in zip(self._parts, flats, strict=True):
            start = at[part.group]
            at[part.group] += part.size
            if isinstance(x, Few):
                x = x.dense(part.size)
            if x is not None:
                folded.w[part.group, start : start + part.size] += x.double().cpu()

    def sketch(self, folded: Folded) -> tuple[torch.Tensor, torch.Tensor]:
        return folded.w, folded.w.square().sum(dim=1)


def fetch(tensor: torch.Tensor) -> Callable[[], Floats]:
    """Start a copy to the host; the returned function waits for it and gives the array."""
    if tensor.device.type not in ("cuda", "xpu"):
        return lambda: tensor.cpu().numpy()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    event = torch.accelerator.current_stream(tensor.device).record_event()

    def wait() -> Floats:
        event.synchronize()
        array: Floats = host.numpy()
        return array

    return wait
