"""Both kernels of the fold on a GPU, in Triton. Imported by name, where Triton is and a gradient is on a GPU.

A program folds one block of columns of one segment: some rows of a group, whose tensors have one dtype. It takes what
each row has for these columns, wherever its rotation puts that, adds it up in registers, and stores its sums. The other
kernel adds up the segments of a group in their order. So each entry is read once, and the sums are always the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

VERSION = f"triton {triton.__version__}"


# Triton has no types for pointers, numbers and blocks, and its decorator has none: mypy has to look away here.
@triton.jit
def plus(a, b):  # type: ignore[no-untyped-def]
    """Return a + b."""
    return a + b


@triton.jit  # type: ignore[untyped-decorator]
def fold_segments(  # type: ignore[no-untyped-def]
    which, segments, table, addresses, t, sums, squares, m,
    KIND: tl.constexpr, SUM: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Write the sums (segments, m) and sums of squares (segments, blocks) of the segments listed in ``which``.

    A row of ``table`` has: the tensor, where in it the row's entries begin, the column of the first, their number, the
    rotation, the sign. ``addresses`` says where tensors of dtype ``KIND`` are; at 0 is none.
    """
    block, segment = tl.program_id(0), tl.load(which + tl.program_id(1))
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.full([COLUMNS], 0, SUM)
    square = tl.full([COLUMNS], 0, tl.float64)
    for row in range(tl.load(segments + segment), tl.load(segments + segment + 1)):
        at = table + 6 * row
        address = tl.load(addresses + tl.load(at))
        begin, left = tl.load(at + 1), tl.load(at + 2).to(tl.int32)
        number = tl.where(address != 0, tl.load(at + 3), 0).to(tl.int32)
        entry = column - tl.load(at + 4).to(tl.int32)
        entry = tl.where(entry < 0, entry + m, entry)
        there = (column < m) & (entry >= left) & (entry < left + number)
        x = tl.load(address.to(tl.pointer_type(KIND)) + begin + (entry - left), mask=there, other=0).to(SUM)
        sign = tl.load(t + entry, mask=column < m, other=0) * tl.load(at + 5)
        total += x * sign.to(SUM)
        wide = x.to(tl.float64)
        square += wide * wide
    tl.store(sums + segment * m + column, total, mask=column < m)
    tl.store(squares + segment * tl.num_programs(0) + block, tl.reduce(square, 0, plus))


@triton.jit  # type: ignore[untyped-decorator]
def add_segments(  # type: ignore[no-untyped-def]
    bounds, sums, squares, w, norms, m, COLUMNS: tl.constexpr
) -> None:
    """Add the segments from ``bounds[g]`` on to row g of w (groups, m), and write their squares (groups, blocks)."""
    block, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    place = w + group * m + column
    total = tl.load(place, mask=column < m, other=0)
    square = tl.full([], 0, tl.float64)
    for segment in range(tl.load(bounds + group), tl.load(bounds + group + 1)):
        total += tl.load(sums + segment * m + column, mask=column < m, other=0)
        square += tl.load(squares + segment * tl.num_programs(0) + block)
    tl.store(place, total, mask=column < m)
    tl.store(norms + group * tl.num_programs(0) + block, square)
