"""How far the gradients of two halves of a batch lie apart, which tells signal from minibatch noise at any step size.

With g the mean of both and g_a that of the first, (g_a - g_b) / 2 = g_a - g. Its squared norm is kept for each group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradlog.errors import GradientError
from gradlog.format.codec import Numbers
from gradlog.format.header import RunHeader
from gradlog.format.names import HALF_NORM2
from gradlog.recorder.rows.row_builder import Row, RowBuilder
from gradlog.sketching.fold_hash import in_range, squared_norm
from gradlog.sketching.pytree import flatten
from gradlog.sketching.sparse import made_dense

_PART = 2**16
"""Entries whose differences are taken together."""

Arrays = Sequence[Numbers | None]


def half_norms(header: RunHeader, mean: Arrays, first: Arrays) -> dict[str, float]:
    """Squared norms of the difference of two gradients, by group, under the names that they are stored by.

    Parameters
    ----------
    header : RunHeader
        Of the run.
    mean, first : sequence of ndarray or None
        The batch's gradient and that of its first half, in the order of the run's tensors; None counts as zero.

    Raises
    ------
    GradientError
        A shape that is not that of the run's tensor.
    """
    sums = [0.0] * len(header.groups)
    for tensor, *pair in zip(header.tensors, mean, first, strict=True):
        for x in pair:
            if x is not None and x.shape != tensor.shape:
                raise GradientError(f"{tensor.name}: expected a gradient of shape {tensor.shape}, got {x.shape}")
        sums[tensor.group] += _distance2(*pair)
    return {HALF_NORM2.format(group): value for group, value in enumerate(sums)}


def _distance2(a: Numbers | None, b: Numbers | None) -> float:
    """Squared distance of two tensors' gradients; zero where both have none."""
    flat = [_real(x) for x in (a, b) if x is not None]
    total = 0.0
    with np.errstate(all="ignore"):
        for start in range(0, len(flat[0]) if flat else 0, _PART):
            parts = [x[start : start + _PART].astype(np.float32, copy=False) for x in flat]
            d = parts[0] - parts[1] if len(parts) == 2 else parts[0]
            total += in_range(squared_norm(d), d)
    return total


def _real(x: Numbers) -> Numbers:
    """Real entries in C order; a complex one counts as two."""
    flat = x.ravel()
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def row_of(
    builder: RowBuilder, pairs: list[tuple[str, object]], half: object, update: object, scalars: dict[str, float]
) -> Row:
    """Row of a step, with its update and with the norms of the half batch where they are given."""
    mean = builder.ordered(pairs)
    change = None if update is None else builder.projected(flatten(update))
    if half is None:
        return Row(mean, scalars, update=change)
    if builder.header.what != "gradient":
        raise GradientError(f"half: expected with what='gradient', this run records what={builder.header.what!r}")
    pair = (made_dense(arrays) for arrays in (mean, builder.ordered(flatten(half))))
    return Row(mean, scalars | half_norms(builder.header, *pair), update=change)
