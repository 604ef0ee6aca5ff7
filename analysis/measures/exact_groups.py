"""Groups that the sketch shows without error: no two of their entries fall into the same column.

The map knows its collisions. If all entries of a group have columns of their own, the sketch of the group is a signed
permutation of its gradient. Then every inner product is exact, to rounding of the input to float32.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gradlog.errors import UnsupportedError
from gradlog.format.header import FULL_BITS, RunHeader, SketchSpec, TensorInfo
from gradlog.sketching.fold_hash import from_spec

LONGEST = 2**22
"""Length of a folded vector up to which the map is made anew; the default length is 2**15 up to k = 1024."""


def exact_groups(header: RunHeader) -> tuple[bool, ...]:
    """Whether each group's sketch has no error, in group order.

    Groups with more than k entries collide for certain, so that the work is bounded however large the model is.
    """
    spec = header.sketch
    if spec.exact:
        return (True,) * len(header.groups)
    sizes = header.group_sizes()
    if header.sketch_bits != FULL_BITS or spec.m > LONGEST or min(sizes, default=0) > spec.k:
        return (False,) * len(header.groups)
    few = tuple(tensor for tensor in header.tensors if sizes[tensor.group] <= spec.k)
    return _without_collisions(spec, few, len(header.groups))


@lru_cache(maxsize=64)
def _without_collisions(spec: SketchSpec, tensors: tuple[TensorInfo, ...], groups: int) -> tuple[bool, ...]:
    try:
        sketch = from_spec(spec, tensors)
    except UnsupportedError:  # a map that this version does not know
        return (False,) * groups

    def separate(group: int) -> bool:
        columns = [sketch.columns(t.name, t.size) for t in tensors if t.group == group]
        taken = np.concatenate([np.empty(0, np.int64), *columns])
        return len(taken) > 0 and len(np.unique(taken)) == len(taken)

    return tuple(map(separate, range(groups)))
