"""Sums of matrix products in place: BLAS adds to what is there, without the temporaries of ``numpy.matmul``.

A tile's Gram is small and its rows few. Making, mirroring and adding it took numpy 1.7 times as long as the products
alone (256 rows of 256). scipy exports the BLAS that it was built with (``scipy.linalg.cython_blas``). Called through
ctypes, it does not hold the interpreter's lock, and rows may stand apart.
"""

from __future__ import annotations

import ctypes
from ctypes import byref
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import cython_blas

from gradlog.analysis.common.types import Float32

_ONE = ctypes.c_float(1)
# BLAS counts columns first: to it a C-ordered array is its own transpose, and an upper triangle the lower one
_LOWER, _PLAIN, _TRANSPOSED = (ctypes.c_char(letter) for letter in (b"L", b"N", b"T"))


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
    _check(out, (n, n))
    if m == 0:
        return
    size, count, step = (ctypes.c_int(x) for x in (n, m, _step(rows)))
    _blas("ssyrk")(
        byref(_LOWER), byref(_PLAIN), byref(size), byref(count), byref(_ONE), rows.ctypes.data, byref(step),
        byref(_ONE), out.ctypes.data, byref(size),
    )  # fmt: skip


def add_product(left: Float32, right: Float32, out: Float32) -> None:
    """Add left^T right to ``out``.

    Parameters
    ----------
    left, right : float32 (m, n), (m, l)
        Each row contiguous.
    out : float32 (n, l), C order
    """
    (m, n), width = left.shape, right.shape[1]
    if len(right) != m:
        raise ValueError(f"expected as many rows on both sides, got {m} and {len(right)}")
    _check(out, (n, width))
    if m == 0:
        return
    sizes = [ctypes.c_int(x) for x in (width, n, m, _step(right), _step(left), width)]
    l_, n_, m_, right_, left_, out_ = map(byref, sizes)
    _blas("sgemm")(
        byref(_PLAIN), byref(_TRANSPOSED), l_, n_, m_, byref(_ONE), right.ctypes.data, right_,
        left.ctypes.data, left_, byref(_ONE), out.ctypes.data, out_,
    )  # fmt: skip


def _step(rows: Float32) -> int:
    """Values from one row to the next."""
    n = rows.shape[1]
    step = rows.strides[0] // 4 if len(rows) > 1 else n
    if rows.dtype != np.float32 or step < n or (n > 1 and rows.strides[1] != 4):
        raise ValueError(f"expected float32 rows that are contiguous, got {rows.dtype} with strides {rows.strides}")
    return step


def _check(out: Float32, shape: tuple[int, int]) -> None:
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(f"expected float32 {shape} in C order to add to, got {out.dtype} {out.shape}")


@cache
def _blas(name: str) -> Any:
    """BLAS routine; every argument is an address."""
    python, capsule = ctypes.pythonapi, cython_blas.__pyx_capi__[name]
    signature = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", python))(capsule)
    address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", python))
    arguments = signature.count(b"*")
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(address(capsule, signature))
