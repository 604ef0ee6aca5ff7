"""The fold-hash sketch of parts of tensors: on a device in torch, and in float64 in numpy.

Both use the random numbers of :class:`gradlog.sketching.fold_hash.FoldHash`, so their results are sketches of the
same map; only the order of additions differs. A *part* is a range of a tensor's coordinates in C order: a whole
tensor, or the shard that one rank holds. Sketches of parts add up to the sketch of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from gradlog.errors import UnsupportedError
from gradlog.format.header import RunHeader
from gradlog.integrations.sketch_tables import Part, pieces, tables
from gradlog.integrations.torch.types import Floats
from gradlog.sketching.fold_hash import FoldHash, from_spec

BLOCK = 64
"""Rows of m floats that the device folds at once."""


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


class PartSketch(Protocol):
    """Sketches parts in two stages, so that one row can be added up from several calls."""

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
    S = from_spec(header.sketch)
    if device.type == "cpu" and not force:
        return _HostSketch(S, parts, groups)
    if precise and device.type == "mps":
        raise UnsupportedError("what='update' needs float64, which Apple's GPU does not have")
    return _DeviceSketch(S, parts, groups, device, torch.float64 if precise else torch.float32)


class _DeviceSketch:
    """Sketches parts that live on one device; nothing waits for the device.

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
    """

    def __init__(
        self, S: FoldHash, parts: Sequence[Part], groups: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self._S, self._device = S, device
        self._k, self._m, self._groups = S.spec.k, S.spec.m, groups
        self._parts = parts
        # Apple's GPU knows no float64; elsewhere the squares are added in it.
        self._wide = torch.float32 if torch.device(device).type == "mps" else torch.float64

        def put(a: NDArray[np.generic], kind: torch.dtype) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(a), dtype=kind, device=device)

        t, sign, order = tables(S)
        self._t, self._sign, self._order = put(t, dtype), put(sign, dtype), put(order, torch.int64)
        self._group_of = put(np.array([p.group for p in parts], np.int64), torch.int64)
        self._zero = torch.zeros((), dtype=self._wide, device=device)
        self._codes: dict[str, torch.Tensor] = {}
        self._blocks = []
        for g in range(groups):
            rows = [(i, piece) for i, p in enumerate(parts) if p.group == g for piece in pieces(S, p)]
            for start in range(0, len(rows), BLOCK):
                block = rows[start : start + BLOCK]
                shifts = put(np.array([piece.shift for _, piece in block]), torch.int64)[:, None]
                signs = put(np.array([piece.sign for _, piece in block]), dtype)[:, None]
                self._blocks.append((g, block, shifts, signs))
        most = max((len(b[1]) for b in self._blocks), default=0)
        self._rows = torch.zeros(most, self._m, dtype=dtype, device=device)
        self._places = torch.arange(self._m, device=device)

    def zero(self) -> Folded:
        w = torch.zeros(self._groups, self._m, dtype=self._t.dtype, device=self._device)
        return Folded(w, torch.zeros(self._groups, dtype=self._wide, device=self._device), set())

    def fold(self, folded: Folded, flats: Sequence[Flat]) -> None:
        w = folded.w
        for g, block, shifts, signs in self._blocks:
            held = [
                (row, piece.column, x[piece.start : piece.stop])
                for row, (i, piece) in enumerate(block)
                if isinstance(x := flats[i], torch.Tensor)
            ]
            if not held:
                continue
            X = self._rows[: len(block)].zero_()
            torch._foreach_copy_([X[r, c : c + len(x)] for r, c, x in held], [x for _, _, x in held])
            X.mul_(self._t).mul_(signs)
            w[g] += X.gather(1, (self._places - shifts).remainder_(self._m)).sum(0)
        for part, x in zip(self._parts, flats, strict=True):
            if isinstance(x, Few) and len(x.index):
                w[part.group].index_add_(0, *self._fold_few(part, x))
        norms = [self._zero if x is None else self._square(x.values if isinstance(x, Few) else x) for x in flats]
        if norms:
            folded.norm2.index_add_(0, self._group_of, torch.stack(norms))

    def sketch(self, folded: Folded) -> tuple[torch.Tensor, torch.Tensor]:
        v = (folded.w * self._sign)[:, self._order]
        v = torch.nn.functional.pad(v, (0, -self._m % self._k)).view(self._groups, -1, self._k)
        return v.sum(1), folded.norm2

    def _fold_few(self, part: Part, x: Few) -> tuple[torch.Tensor, torch.Tensor]:
        """Where single entries of a whole tensor go in the folded vector, and what is added there."""
        if part.name not in self._codes:
            codes = self._S.rows(part.name, -(-part.size // self._m))
            self._codes[part.name] = torch.from_numpy(np.ascontiguousarray(codes)).to(self._device)
        row, entry = x.index // self._m, x.index % self._m
        code = self._codes[part.name][row]
        sign = (1 - 2 * (code & 1)) * self._t[entry]
        return ((code >> 1) + entry) % self._m, x.values.to(self._t.dtype) * sign

    def _square(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(x.to(self._t.dtype), dtype=self._wide).square()


class _HostSketch:
    """The same on the CPU in numpy, every sum in float64. Arguments as for :class:`_DeviceSketch`."""

    def __init__(self, S: FoldHash, parts: Sequence[Part], groups: int) -> None:
        self._S, self._parts, self._groups = S, parts, groups
        t, sign, self._order = tables(S)
        self._t, self._sign = t.astype(np.float64), sign.astype(np.float64)
        self._scratch = np.empty(S.spec.m)

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
        norm2 = 0.0
        for start, stop, column, shift, sign in pieces(self._S, part):
            n = stop - start
            piece = self._scratch[:n]
            piece[:] = x[start:stop]
            norm2 += float(np.dot(piece, piece))
            piece *= self._t[column : column + n]
            place = w[shift + column :][:n]
            (np.subtract if sign < 0 else np.add)(place, piece, place)
        return norm2


class _ExactSketch:
    """The coordinates themselves, zero padded, in float64; for small models."""

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
