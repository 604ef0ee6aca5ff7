"""The fold on a GPU by kernels of Triton, which read each entry once, in one launch for each dtype and one more."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from gradlog.integrations.sketch_tables import Part, pieces, tables
from gradlog.integrations.torch.sketching.device_fold import BlockFold, Target
from gradlog.integrations.torch.sketching.flats import Flat
from gradlog.recorder.rows.fold import Fold
from gradlog.sketching.fold_hash import FoldHash

COLUMNS = 1024
"""Columns of a program."""

LEAST, MOST = 32, 1024
"""Rows of a segment, at least; and about how many segments there may be, whose sums are m floats each."""


class TritonFold:
    """Folds dense tensors; ``parts`` and ``groups`` as of ``device_sketch.DeviceSketch``."""

    def __init__(self, kernels: ModuleType, S: FoldHash, parts: Sequence[Part], groups: int, to: Target) -> None:
        self._kernels, self._to, self._m, self._groups = kernels, to, S.spec.m, groups
        self._t = to.put(tables(S)[0], torch.int8)
        self._group = [p.group for p in parts]
        self._rows = [
            [(i, piece.start, piece.column, piece.stop - piece.start, piece.shift, piece.sign)
             for piece in (pieces(S, p) if p.size else ())]
            for i, p in enumerate(parts)
        ]  # fmt: skip
        self._kinds: list[torch.dtype] = [torch.float32] * len(parts)
        self._held: list[int] = []
        self._plan()

    def _plan(self) -> None:
        """Cut the rows into segments of one group and one dtype."""
        kinds = list(dict.fromkeys(self._kinds))
        order = sorted(range(len(self._rows)), key=lambda i: (self._group[i], kinds.index(self._kinds[i])))
        rows = [row for i in order for row in self._rows[i]]
        label = [(self._group[i], kinds.index(self._kinds[i])) for i in order for _ in self._rows[i]]
        share = max(LEAST, -(-len(rows) // MOST))
        starts: list[int] = []
        for row, one in enumerate(label):
            if not starts or one != label[starts[-1]] or row - starts[-1] == share:
                starts.append(row)
        own = np.array([label[row] for row in starts], np.int64).reshape(-1, 2)

        def put(a: NDArray[np.generic]) -> torch.Tensor:
            return self._to.put(a, torch.int64)

        self._table = put(np.array(rows, np.int64).reshape(-1, 6))
        self._segments = put(np.array([*starts, len(rows)]))
        self._bounds = put(np.searchsorted(own[:, 0], np.arange(self._groups + 1)))
        self._launches = [(kind, put(found)) for at, kind in enumerate(kinds)
                          if len(found := np.flatnonzero(own[:, 1] == at))]  # fmt: skip

    def add(self, w: torch.Tensor, norm2: torch.Tensor, flats: Sequence[Flat]) -> None:
        """Add tensors to w (groups, m), and their squares to norm2 (groups,)."""
        held = [_readable(x) for x in flats]
        kinds = [old if x is None else x.dtype for x, old in zip(held, self._kinds, strict=True)]
        if kinds != self._kinds:
            self._kinds = kinds
            self._plan()
        self._locate([0 if x is None else x.data_ptr() for x in held])
        segments, blocks = len(self._segments) - 1, -(-self._m // COLUMNS)
        sums = torch.empty(segments, self._m, dtype=w.dtype, device=w.device)
        squares, norms = (
            torch.empty(n, blocks, dtype=torch.float64, device=w.device) for n in (segments, self._groups)
        )
        language = self._kernels.tl
        with torch.cuda.device_of(w):
            for kind, which in self._launches:
                self._kernels.fold_segments[blocks, len(which)](
                    which, self._segments, self._table, self._addresses, self._t, sums, squares, self._m,
                    KIND=getattr(language, str(kind)[6:]), SUM=getattr(language, str(w.dtype)[6:]), COLUMNS=COLUMNS,
                    enable_fp_fusion=True,
                )  # fmt: skip
            self._kernels.add_segments[blocks, self._groups](
                self._bounds, sums, squares, w, norms, self._m, COLUMNS=COLUMNS, enable_fp_fusion=True
            )
        norm2.add_(norms.sum(1))

    def _locate(self, held: list[int]) -> None:
        """Tell the device where the tensors are, if it does not know yet."""
        if held != self._held:
            host = torch.tensor(held, dtype=torch.int64, device="cpu", pin_memory=self._to.device.type == "cuda")
            self._addresses, self._held = host.to(self._to.device, non_blocking=True), held


KINDS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Dtypes that the kernels read; others are converted before."""


def _readable(x: Flat) -> torch.Tensor | None:
    """Return it as entries that stand side by side in memory, in a dtype that is read."""
    if not isinstance(x, torch.Tensor):
        return None
    return (x if x.dtype in KINDS else x.float()).resolve_neg().contiguous()


def fold_on(S: FoldHash, parts: Sequence[Part], groups: int, to: Target) -> tuple[BlockFold | TritonFold, Fold]:
    """Return the best fold that works on a device, and what there is to tell of it."""
    kernels = kernels_for(to)
    if isinstance(kernels, ModuleType):
        return TritonFold(kernels, S, parts, groups, to), Fold(f"{kernels.VERSION} on {to.device.type}", FoldHash)
    name = f"torch {torch.__version__} on {to.device.type}"
    return BlockFold(S, parts, to), Fold(name, FoldHash, failure=kernels)


@functools.cache
def kernels_for(to: Target) -> ModuleType | str:
    """Compile the kernels for all dtypes and try them. Nothing here raises.

    An empty string where Triton is not there or does not serve the device; where it fails, why.
    """
    if to.device.type != "cuda" or find_spec("triton") is None:
        return ""
    try:
        kernels = import_module("gradlog.integrations.torch.sketching.triton_kernels")
        require_same_sums(kernels, to)
    except Exception as error:  # of a compiler, anything may be raised
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return f"Triton cannot be used, so torch sketches on the GPU ({reason})"
    return kernels


def require_same_sums(kernels: ModuleType, to: Target) -> None:
    """Raise RuntimeError where the kernels give another sketch than plain torch."""
    S, sizes = FoldHash(5, m=64), (1, 63, 200, 130)
    parts = [Part(f"t{i}", i % 2, n) for i, n in enumerate(sizes)]
    flats = [torch.arange(n, device=to.device).remainder(7).sub(2).to(kind)
             for n, kind in zip(sizes, KINDS, strict=True)]  # fmt: skip
    found = []
    for fold in (BlockFold(S, parts, to), TritonFold(kernels, S, parts, 2, to)):
        w = torch.zeros(2, 64, dtype=to.dtype, device=to.device)
        norm2 = torch.zeros(2, dtype=to.wide, device=to.device)
        fold.add(w, norm2, flats)
        found.append((w.tolist(), norm2.tolist()))  # small whole numbers: every order of additions gives the same
    if found[0] != found[1]:
        raise RuntimeError(f"{kernels.VERSION} computes wrong sums on {to.device}")
