"""Which code folds the gradients of a recording on the CPU: compiled loops where they pay, numpy otherwise."""

from __future__ import annotations

import functools
import time
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from gradlog.format.header import RunHeader
from gradlog.sketching.fold_hash import FoldHash

WORTH = 2**20
"""Parameters from which on compiled loops save more, within some thousand steps, than it takes to load them."""


class Fold(NamedTuple):
    """A class of the random map, and why it was chosen.

    Attributes
    ----------
    name : str
        ``"numpy"``, numba and its version, or what sketches on a device.
    family : type
        Class of the map on the CPU.
    remark : str
        For the log: what loading took, or why it is numpy.
    failure : str
        What made numba or Triton unusable though it is installed; empty otherwise.
    """

    name: str
    family: type[FoldHash]
    remark: str = ""
    failure: str = ""


def choose(header: RunHeader) -> Fold:
    """Return the fold of a run."""
    return Fold("numpy", FoldHash) if header.sketch.exact or header.dimension < WORTH else fastest()


@functools.cache
def fastest() -> Fold:
    """Compiled loops, or numpy where numba is missing, switched off or broken. Nothing here raises."""
    numpy = Fold("numpy", FoldHash)
    start = time.perf_counter()
    try:
        if find_spec("numba") is None:
            return numpy._replace(remark="the extra 'fast' of gradlog-zarr halves its time")
        loops = import_module("gradlog.sketching.compiled_fold")
        if not loops.ENABLED:
            return numpy._replace(remark="NUMBA_DISABLE_JIT is set")
        loops.require_same_bits()
    except Exception as error:  # of what it imports itself, anything may be raised
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return numpy._replace(failure=f"numba cannot be used, so numpy sketches ({reason})")
    return Fold(loops.VERSION, loops.CompiledFoldHash, f"ready in {time.perf_counter() - start:.1f} s")
