"""Both stages of ``fold-hash/1`` as compiled loops, where the optional extra ``fast`` (numba) is installed.

The same additions in the same order as in :mod:`gradlog.sketching.fold_hash`, hence the same sketches to the bit. The
squared norm is summed from the slice of a row that is then folded out of the cache, so memory is read once. Its float32
sums have another order than those of BLAS and may differ in the last bits, as between two builds of BLAS. Loops run
over slices, from which numba knows that they are contiguous; they do not hold the interpreter's lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from gradlog.format.codec import Numbers
from gradlog.sketching.fold_hash import Floats, FoldHash

SLICE, LINE = 2**15, 16
"""Most entries of a float32 sum, for each slice costs about 0.1 us; and floats of a cache line."""

VERSION, ENABLED = f"numba {numba.__version__}", not numba.config.DISABLE_JIT
Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(signature: str) -> Callable[[Loop], Loop]:
    """Compile at once, or take what an earlier process left: beside this file, or in the user's cache folder."""

    def now(loop: Loop) -> Loop:
        kept: Loop
        try:
            kept = numba.njit(signature, nogil=True, cache=True)(loop)
        except Exception:  # no folder takes it, the disk is full, a file is damaged
            kept = numba.njit(signature, nogil=True)(loop)
        return kept

    return now


class CompiledFoldHash(FoldHash):
    """The map of :class:`FoldHash`. Parameters and errors as of that."""

    def __init__(self, k: int, seed: int = 0, m: int | None = None, places: Mapping[str, int] | None = None) -> None:
        super().__init__(k, seed, m, places)
        self._t8 = self._t.astype(np.int8)
        self._order32 = self._order.astype(np.int32)

    def fold_wide(self, w: NDArray[np.float64], column: int, x: Numbers, negative: bool) -> float:
        """Add a piece of a row to sums in float64, as of :class:`FoldHash`."""
        if not _takes(x):
            return super().fold_wide(w, column, x, negative)
        return _fold_wide(w, self._t8[column : column + len(x)], x, negative)

    def hash(self, w: Floats, out: Floats) -> None:
        """Second stage, as of :class:`FoldHash`."""
        _hash(w, self._sign, self._order32, self._scratch, self._columns.reshape(-1), self.spec.k)
        out[:] = self._columns[0]

    def _fold(self, w: Floats, name: str, x: Numbers) -> float:
        if not _takes(x):
            return super()._fold(w, name, x)
        return _fold(w, self._t8, self.rows(name, -(-x.size // len(self._t8))), x)


def require_same_bits() -> None:
    """Raise RuntimeError where a broken compiler gives another sketch than numpy."""
    x = np.arange(500, dtype=np.float32) / 3 - 100
    maps = [family(5, m=64) for family in (FoldHash, CompiledFoldHash)]
    norms = [S.fold_norm2(S.buffer(), "w", x) for S in maps]
    plain, fast = (S.sketch(x, "w").tobytes() for S in maps)
    if fast != plain or not math.isclose(*norms, rel_tol=1e-5):
        raise RuntimeError(f"{VERSION} computes wrong sums on this machine")


def _takes(x: Numbers) -> bool:
    return bool(x.dtype == np.float32 and x.flags.aligned and x.flags.c_contiguous)


# Norms may be summed in any order, which lets them vectorise. numba has no types.
@numba.njit(fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _squared_norm(x: Numbers) -> np.float32:
    total = np.float32(0)
    for j in range(len(x)):
        total += x[j] * x[j]
    return total


@compiled("float64(float32[::1], int8[::1], int64[::1], Array(float32, 1, 'C', True, aligned=True))")
def _fold(w: Floats, t: NDArray[np.int8], codes: NDArray[np.int64], x: Numbers) -> float:
    """Add the rows of x to w, signed and rotated by their codes, and return the squared norm of x."""
    norm2 = np.float64(0)
    for q in range(len(codes)):
        start, shift, negative = q * len(t), codes[q] >> 1, codes[q] & 1
        n = min(len(t), len(x) - start)
        for a in range(0, n, SLICE):
            b = min(a + SLICE, n)
            norm2 += _squared_norm(x[start + a : start + b])
            c = min(a + -(shift + a) % LINE, b)  # from there on, no store to w straddles two lines
            for j in range(a, c):
                signed = np.float32(t[j]) * x[start + j]
                w[shift + j] += -signed if negative else signed
            signs, part, place = t[c:b], x[start + c : start + b], w[shift + c : shift + b]
            if negative:
                for j in range(len(part)):
                    place[j] -= np.float32(signs[j]) * part[j]
            else:
                for j in range(len(part)):
                    place[j] += np.float32(signs[j]) * part[j]
    return norm2


@numba.njit(fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]  # as above
def _squared_norm_wide(x: Numbers) -> float:
    total = np.float64(0)
    for j in range(len(x)):
        total += np.float64(x[j]) * np.float64(x[j])
    return total


@compiled("float64(float64[::1], int8[::1], Array(float32, 1, 'C', True, aligned=True), boolean)")
def _fold_wide(w: NDArray[np.float64], t: NDArray[np.int8], x: Numbers, negative: bool) -> float:
    """Add one piece of a row, signed, to float64 sums, and return its squared norm."""
    if negative:
        for j in range(len(x)):
            w[j] -= np.float64(t[j]) * np.float64(x[j])
    else:
        for j in range(len(x)):
            w[j] += np.float64(t[j]) * np.float64(x[j])
    norm2: float = _squared_norm_wide(x)
    return norm2


@compiled("void(float32[::1], float32[::1], int32[::1], float32[::1], float32[::1], int64)")
def _hash(w: Floats, sign: Floats, order: NDArray[np.int32], v: Floats, columns: Floats, k: int) -> None:
    """Add the halves of w, arrange their sum in rows of k, and add the rows up to the first by halving."""
    m = len(order)
    low, high = w[:m], w[m : 2 * m]
    for i in range(m):
        v[i] = (low[i] + high[i]) * sign[i]
    for i in range(m):
        columns[i] = v[order[i]]
    n = len(columns) // k
    while n > 1:
        half = n // 2
        first, last = columns[: half * k], columns[(n - half) * k : n * k]
        for i in range(half * k):
            first[i] += last[i]
        n -= half
