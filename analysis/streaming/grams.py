"""Grams of the rows and of their increments, together: for both it takes one and a half times the products of one.

Of two neighbouring rows x and y, x x' + y y' = ((y - x)(y - x)' + (x + y)(x + y)') / 2. The products of every other
increment serve both Grams; of the rows themselves only sums of two are left to multiply.

BLAS adds a Gram to what is there, without the temporaries of ``numpy.matmul``: making, mirroring and adding a tile's
Gram took numpy 1.7 times as long as the products alone (256 rows of 256). Scipy's own wrapper holds the interpreter's
lock, so that threads wait for each other. But the BLAS that scipy was built with is exported for compiled callers
(``scipy.linalg.cython_blas``). Called through ctypes, it holds no lock, and rows may stand apart.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref
from functools import cache
from typing import cast

import numpy as np
from scipy.linalg import cython_blas

from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.streaming.recipe import SUMS, Recipe

ROWS = 4096
"""Rows of a float32 sum; BLAS adds it up by some hundreds of them."""

FEW, TOGETHER = 128, 256
"""Rows that wait for others, for each product goes through the whole memory of the sums; and rows that do not."""

Sums = dict[str, Float32]


class Grams:
    """The large sums of a block of rows, in float32 until they are settled; of Grams the upper triangle."""

    def __init__(self, recipe: Recipe) -> None:
        shapes = {name: shape for name, shape in recipe.shapes().items() if SUMS[name].product}
        self._recipe, self._rows, self._settled = recipe, 0, False
        self._pairs = np.empty((0, recipe.n), np.float32)
        self._waiting: list[tuple[Float32, Float32]] = []
        self._parts: list[Sums] = [
            {name: np.zeros(shape, np.float32) for name, shape in shapes.items()} for _ in range(parts(recipe))
        ]

    def add(self, X: Float32, h: Float32, sums: dict[str, Float64]) -> None:
        """Add rows X (m, n) and their increments h (m, n), zeros where a row has none; settle once it is time."""
        if not self._parts[0]:
            return
        if len(X) < FEW:
            self._waiting.append((X.copy(), h.copy()))
            if len(X) % 2 or sum(len(rows) for rows, _ in self._waiting) >= TOGETHER:
                self._take()
        else:
            self._take()
            self._add(X, h)
        if self._rows >= ROWS:
            self.settle(sums)

    def _take(self) -> None:
        """Add what waits: all but the last of even length, so that pairs of rows stay pairs."""
        if self._waiting:
            X, h = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
            self._waiting.clear()
            self._add(X, h)

    def _add(self, X: Float32, h: Float32) -> None:
        if self._recipe.scatter:
            odd, even, pairs = self._parts
            self._multiply(h[1::2], odd)
            self._multiply(h[::2], even)
            self._multiply(self._pair_sums(X), pairs)
        else:
            self._multiply(h, self._parts[0])
        self._rows += len(X)

    def add_increment(self, h: Float64) -> None:
        """Add one increment (n,) whose rows were, or will be, added by other calls."""
        if self._parts[0]:
            self._multiply(h.astype(np.float32)[None], self._parts[1 if self._recipe.scatter else 0])

    def settle(self, sums: dict[str, Float64]) -> None:
        """Add what there is to a summary's sums, and begin again."""
        self._take()
        for name, values in self._joined().items():
            sums[name] += values
        for part in self._parts:
            for values in part.values():
                values[:] = 0
        self._rows, self._settled = 0, True

    def finish(self, sums: dict[str, Float64]) -> None:
        """Settle, or leave the sums of a short block in float32, half the size; nothing can be added any more."""
        self._take()
        if self._settled:
            self.settle(sums)
        else:
            sums |= cast("dict[str, Float64]", self._joined())

    def _joined(self) -> Sums:
        """Name the sums as the recipe does, in the memory of the parts."""
        if not self._recipe.scatter:
            return self._parts[0]
        found: Sums = {}
        for name, odd in self._parts[0].items():
            even, pairs = self._parts[1][name], self._parts[2][name]
            even += odd
            pairs += odd
            pairs *= np.float32(0.5)
            found |= {name: even, f"{name}_rows": pairs}
        return found

    def _multiply(self, rows: Float32, out: Sums) -> None:
        recipe = self._recipe
        if "gram" in out:
            width = out["gram"].shape[-1]
            for g, gram in enumerate(out["gram"].reshape(-1, width, width)):
                add_gram(rows[:, g * width : (g + 1) * width], gram)
        if "pooled" in out:
            add_gram(rows.reshape(len(rows), recipe.groups, recipe.k).sum(axis=1), out["pooled"])
        if recipe.test is not None:
            add_product(rows, rows @ recipe.test, out["image"])

    def _pair_sums(self, X: Float32) -> Float32:
        """Add rows 0 and 1, 2 and 3, ...; the last one, where it has no partner, counts sqrt(2) times."""
        count, paired = -(-len(X) // 2), len(X) // 2 * 2
        if len(self._pairs) < count:
            self._pairs = np.empty((count, X.shape[1]), np.float32)
        out = self._pairs[:count]
        np.add(X[0:paired:2], X[1:paired:2], out=out[: paired // 2])
        if paired < len(X):
            np.multiply(X[-1], np.float32(np.sqrt(2)), out=out[-1])
        return out


def parts(recipe: Recipe) -> int:
    """Float32 sums for each large one."""
    return 3 if recipe.scatter else 1


WIDE = 8192
"""Columns of a product that is made before it is added."""


def add_product(left: Float32, right: Float32, out: Float32) -> None:
    """Add left^T right to ``out``."""
    for low in range(0, len(out), WIDE):
        out[low : low + WIDE] += left[:, low : low + WIDE].T @ right


def add_gram(rows: Float32, out: Float32) -> None:
    """Add the upper triangle of rows^T rows to that of ``out``; below, ``out`` stays as it is.

    Parameters
    ----------
    rows : float32 (m, n)
        Each row contiguous.
    out : float32 (n, n), C order

    Examples
    --------
    >>> out = np.zeros((2, 2), np.float32)
    >>> add_gram(np.array([[1, 2], [3, 4]], np.float32), out)
    >>> out.tolist()
    [[10.0, 14.0], [0.0, 20.0]]
    """
    m, n = rows.shape
    if m == 0:
        return
    step = rows.strides[0] // 4 if m > 1 else n
    if rows.dtype != np.float32 or step < n or (n > 1 and rows.strides[1] != 4):
        raise ValueError(f"expected float32 rows that are contiguous, got {rows.dtype} with strides {rows.strides}")
    if out.shape != (n, n) or out.dtype != np.float32 or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(f"expected float32 {(n, n)} in C order to add to, got {out.dtype} {out.shape}")
    # BLAS counts columns first: to it a C-ordered array is its own transpose, and an upper triangle the lower one
    size, count, apart, one = ctypes.c_int(n), ctypes.c_int(m), ctypes.c_int(step), ctypes.c_float(1)
    _ssyrk()(
        b"L", b"N", byref(size), byref(count), byref(one), rows.ctypes.data, byref(apart),
        byref(one), out.ctypes.data, byref(size),
    )  # fmt: skip


@cache
def _ssyrk() -> Callable[..., None]:
    """Symmetric rank-k update of BLAS; every argument is an address."""
    python, capsule = ctypes.pythonapi, cython_blas.__pyx_capi__["ssyrk"]
    signature = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", python))(capsule)
    address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", python))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 10)(address(capsule, signature))
