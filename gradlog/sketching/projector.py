"""From the gradients of one step to its row of the run: sketches, or the coordinates themselves, and squared norms."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.errors import GradientError
from gradlog.format.codec import Numbers
from gradlog.format.header import SketchSpec, TensorInfo
from gradlog.sketching.fold_hash import Floats, FoldHash, from_spec, in_range, squared_norm
from gradlog.sketching.sparse import Sparse

Entries = Numbers | Sparse | None
"""Gradient of one tensor."""

_FEW = 4
"""A group of at most m/4 entries costs half as much entry by entry than by passes over 2m floats."""

_TOGETHER = 2**18
"""Most entries of small groups that are taken together: the tables take some 30 bytes for each."""


def projector(
    spec: SketchSpec, tensors: Sequence[TensorInfo], groups: int, family: type[FoldHash] = FoldHash
) -> Projector:
    """Return the object that projects one step's gradients after another; it serves one thread.

    The random map is of class ``family``.

    Raises
    ------
    ValueError
        Two tensors share a name: their rows would get the same signs.
    UnsupportedError
        Unknown kind of sketch.

    Examples
    --------
    >>> p = projector(FoldHash(k=8).spec, [TensorInfo("w", (2, 3), "float32", 0)], groups=1)
    >>> out, norm2 = np.empty((1, 8), np.float32), np.empty(1)
    >>> p.project([np.ones((2, 3))], out, norm2), norm2.tolist()
    (0, [6.0])
    """
    names = [t.name for t in tensors]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ValueError(f"tensor names must be unique, {twice!r} occurs more than once")
    if spec.exact:
        return _ExactProjector(spec, tensors, groups)
    return _SketchProjector(from_spec(spec, tensors, family), tensors, groups)


class Projector(abc.ABC):
    """From the gradients of one step to its row of the run."""

    def __init__(self, spec: SketchSpec, tensors: Sequence[TensorInfo], groups: int) -> None:
        self.spec = spec
        self._tensors = tuple(tensors)
        self._members = [[i for i, t in enumerate(tensors) if t.group == g] for g in range(groups)]

    def project(self, arrays: Sequence[Entries], out: Floats, norm2: NDArray[np.float64]) -> int:
        """Sketch every group and square its norm.

        Parameters
        ----------
        arrays : sequence of ndarray, Sparse or None
            One gradient a tensor, in the order of ``tensors``; None (no gradient) counts as zeros. Arrays that are
            not C-contiguous are copied, complex ones are read as pairs of reals, all are rounded to float32.
        out : ndarray, float32 (G, k)
            Overwritten with the sketches (exact mode: the coordinates, zero padded).
        norm2 : ndarray, float64 (G,)
            Overwritten with the squared norms. NaN and inf in a gradient pass through to here without a warning.

        Returns
        -------
        int
            How many tensors had no gradient.

        Raises
        ------
        GradientError
            Wrong number of arrays, or an array whose shape or dtype does not fit its tensor.
        """
        if len(arrays) != len(self._tensors):
            raise GradientError(f"expected {len(self._tensors)} gradients, got {len(arrays)}")
        shape = (len(self._members), self.spec.k)
        if out.shape != shape or out.dtype != np.float32 or norm2.shape != shape[:1]:
            raise ValueError(f"out must be float32 {shape} and norm2 ({shape[0]},); got {out.dtype} {out.shape}")
        with np.errstate(all="ignore"):
            self._fill(arrays, out, norm2)
        return sum(a is None for a in arrays)

    @abc.abstractmethod
    def _fill(self, arrays: Sequence[Entries], out: Floats, norm2: NDArray[np.float64]) -> None:
        """Overwrite both."""


class _SketchProjector(Projector):
    """Large groups one after another through both stages of the sketch, the small ones together."""

    def __init__(self, sketch: FoldHash, tensors: Sequence[TensorInfo], groups: int) -> None:
        super().__init__(sketch.spec, tensors, groups)
        self._sketch = sketch
        self._w = sketch.buffer()
        sizes = np.array([sum(tensors[i].size for i in members) for members in self._members])
        few = (sizes > 0) & (sizes <= sketch.spec.m // _FEW)
        order = np.argsort(sizes, kind="stable")
        few[order] &= np.cumsum(np.where(few, sizes, 0)[order]) <= _TOGETHER
        self._large, self._small = np.flatnonzero(~few).tolist(), np.flatnonzero(few)
        if len(self._small):
            self._plan_small(sizes[self._small])

    def _plan_small(self, sizes: NDArray[np.int64]) -> None:
        members = [[i for i in self._members[g] if self._tensors[i].size] for g in self._small]
        self._together = [i for group in members for i in group]
        self._scatter = self._sketch.scatter(
            [[(self._tensors[i].name, self._tensors[i].size) for i in g] for g in members]
        )
        self._starts = np.cumsum([0, *sizes])[:-1]
        self._entries = np.empty(sizes.sum(), np.float32)
        self._sums = np.empty((len(sizes), self.spec.k), np.float32)

    def _fill(self, arrays: Sequence[Entries], out: Floats, norm2: NDArray[np.float64]) -> None:
        for g in self._large:
            norm2[g] = self._group(self._members[g], arrays, out[g])
        if len(self._small):
            norm2[self._small] = self._fill_small(arrays, self._sums)
            out[self._small] = self._sums

    def _group(self, members: list[int], arrays: Sequence[Entries], out: Floats) -> float:
        w, total = self._w, 0.0
        w.fill(0)
        for i in members:
            a = arrays[i]
            if a is not None:
                tensor = self._tensors[i]
                if isinstance(a, Sparse):
                    _require_shape(tensor, a)
                    total += self._sketch.fold_entries(w, tensor.name, a.places, a.values)
                else:
                    total += self._sketch.fold_norm2(w, tensor.name, _coordinates(tensor, a))
        self._sketch.hash(w, out)
        return total

    def _fill_small(self, arrays: Sequence[Entries], out: Floats) -> NDArray[np.float64]:
        start, x = 0, self._entries
        for i in self._together:
            a, tensor = arrays[i], self._tensors[i]
            _write(tensor, a, x[start : (start := start + tensor.size)])
        out.fill(0)
        self._scatter(x, out)
        squares = x.astype(np.float64)
        squares *= squares
        return np.add.reduceat(squares, self._starts)


class _ExactProjector(Projector):
    def _fill(self, arrays: Sequence[Entries], out: Floats, norm2: NDArray[np.float64]) -> None:
        for g, members in enumerate(self._members):
            norm2[g] = self._group(members, arrays, out[g])

    def _group(self, members: list[int], arrays: Sequence[Entries], out: Floats) -> float:
        start, total = 0, 0.0
        for i in members:
            a, tensor = arrays[i], self._tensors[i]
            row = out[start : start + tensor.size]
            _write(tensor, a, row)
            total += in_range(squared_norm(row), row)
            start += tensor.size
        out[start:] = 0
        return total


def _write(tensor: TensorInfo, a: Entries, out: Floats) -> None:
    """Write the real entries of a gradient in C order, (tensor.size,)."""
    if isinstance(a, Sparse):
        _require_shape(tensor, a)
        out[:] = 0
        out[a.places] = a.values
    else:
        out[:] = 0 if a is None else _coordinates(tensor, a)


def _require_shape(tensor: TensorInfo, a: Numbers | Sparse) -> None:
    if a.shape != tensor.shape:
        raise GradientError(f"{tensor.name}: expected a gradient of shape {tensor.shape}, got {a.shape}")


def _coordinates(tensor: TensorInfo, a: Numbers) -> Numbers:
    """Real entries of a gradient in C order, (tensor.size,)."""
    _require_shape(tensor, a)
    flat = a.ravel()
    if flat.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    if flat.dtype.kind not in "fiu" or flat.size != tensor.size:
        raise GradientError(f"{tensor.name}: expected a gradient of dtype {tensor.dtype}, got {a.dtype}")
    return flat
