"""Which parameter tensor belongs to which group: one sketch is kept for each group."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence

Groups = str | Mapping[str, str] | Callable[[str], str | None]
"""``"blocks"``, ``"all"``, ``"tensors"``, a map {group name: regular expression}, or a function of the name."""

MOST, FEW = 16, 8
"""Blocks: at most 16; a division into fewer than 8 gives way to bundles of the next finer one."""

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclasses.dataclass(frozen=True)
class ByOptimizer:
    """A function of the name whose groups are called ``OPTIMIZER/group``.

    An optimizer that trains nothing yet has a group too, ``OPTIMIZER/all``, for what it may train later.
    """

    group: Callable[[str], str]
    optimizers: tuple[str, ...]

    def __call__(self, name: str) -> str:
        """Group of a tensor."""
        return self.group(name)

    def idle(self, groups: Sequence[str]) -> list[str]:
        """List groups for the optimizers that have none among these."""
        return [f"{own}/all" for own in self.optimizers if not any(g.startswith(f"{own}/") for g in groups)]


def canonical(name: str) -> str:
    """Name of a parameter without the marks of torch's wrappers (DataParallel, compile, FSDP, checkpointing).

    >>> canonical("module._orig_mod.layer1.0.weight")
    'layer1.0.weight'
    """
    parts = [p for p in name.split(".") if p not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts) or name


def assign(
    names: Sequence[str], sizes: Sequence[int], groups: Groups = "blocks"
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Divide the tensors into groups.

    Parameters
    ----------
    names : sequence of str
        Canonical names of the parameter tensors, such as ``"layer1.0.conv1.weight"``.
    sizes : sequence of int
        Number of entries of each.
    groups : str, mapping or callable
        * ``"blocks"``: module paths cut at the deepest level that gives at most 16 groups. If that leaves fewer than
          8 while the next level has more than 16, the modules of the next level are bundled. Then the two neighbours
          of smallest total size are merged until 16 remain, named like ``"h.0-h.3"``.
        * ``"all"``: one group. ``"tensors"``: each tensor its own.
        * ``{group: regex}``: the first expression that is found in the name (:func:`re.search`) decides.
        * callable: group name from tensor name.

    Returns
    -------
    group_names : tuple of str
        Every group has at least one tensor, but for one of an optimizer that trains nothing yet.
    index : tuple of int
        Group of each tensor.

    Raises
    ------
    ValueError
        No tensors, an unknown keyword, a bad expression, a tensor that matches none, a group that gets no tensor.

    Examples
    --------
    >>> assign(["conv.weight", "conv.bias", "fc.weight"], [9, 1, 30])
    (('conv', 'fc'), (0, 0, 1))
    """
    if not names:
        raise ValueError("there are no tensors to divide into groups")
    if isinstance(groups, Mapping):
        labels = _by_pattern(names, groups)
        order = list(groups)
    else:
        labels = _labels(names, sizes, groups)
        order = list(dict.fromkeys(labels))
        order += groups.idle(order) if isinstance(groups, ByOptimizer) else []
    position = {g: i for i, g in enumerate(order)}
    return tuple(order), tuple(position[label] for label in labels)


def _labels(names: Sequence[str], sizes: Sequence[int], groups: str | Callable[[str], str | None]) -> list[str]:
    if callable(groups):
        labels = [groups(n) for n in names]
        named = [label for label in labels if isinstance(label, str)]
        if len(named) < len(labels):
            wrong = next(label for label in labels if not isinstance(label, str))
            raise ValueError(f"groups: the function must return a str for each tensor name, got {wrong!r}")
        return named
    if groups == "blocks":
        return _blocks(names, sizes)
    if groups == "all":
        return ["all"] * len(names)
    if groups == "tensors":
        return list(names)
    raise ValueError(
        f"groups={groups!r}: expected 'blocks', 'all', 'tensors', a map {{name: regex}}, or a function of the name"
    )


def _by_pattern(names: Sequence[str], patterns: Mapping[str, str]) -> list[str]:
    try:
        compiled = {group: re.compile(p) for group, p in patterns.items()}
    except (re.error, TypeError) as error:
        raise ValueError(f"groups: not a map of names to regular expressions: {error}") from error
    found = [next((g for g, p in compiled.items() if p.search(n)), None) for n in names]
    lost = [n for n, g in zip(names, found, strict=True) if g is None]
    if lost:
        some = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        raise ValueError(
            f"groups: {len(lost)} tensors match no expression ({some}); add a last entry such as 'rest': '.*'"
        )
    labels = [g for g in found if g is not None]
    empty = [g for g in patterns if g not in labels]
    if empty:
        raise ValueError(f"groups: no tensor falls into {empty[0]!r} ({patterns[empty[0]]!r}); remove the entry")
    return labels


def nearest(name: str, names: Sequence[str], index: Sequence[int]) -> int:
    """Group of the tensor whose path shares most leading parts with ``name``; of the last such tensor.

    >>> nearest("body.3.weight", ["body.0.weight", "body.2.weight", "head.weight"], [0, 1, 2])
    1
    """

    def shared(other: str) -> int:
        pairs = zip(name.split("."), other.split("."), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda p: p[0] == p[1], pairs))

    _, place = max((shared(other), i) for i, other in enumerate(names))
    return index[place]


def _blocks(names: Sequence[str], sizes: Sequence[int]) -> list[str]:
    paths = [n.split(".")[:-1] or [n] for n in names]
    chosen, labels = 1, ["all"] * len(names)
    for depth in range(1, max(map(len, paths)) + 1):
        finer = [".".join(p[:depth]) for p in paths]
        count = len(set(finer))
        if count > MOST:
            return _bundled(finer, sizes) if chosen < FEW else labels
        chosen, labels = count, finer
    return labels


def _bundled(labels: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """Merge neighbouring modules until ``MOST`` bundles remain."""
    total = dict.fromkeys(labels, 0)
    for label, size in zip(labels, sizes, strict=True):
        total[label] += size
    runs = [[label] for label in total]
    weight = list(total.values())
    while len(runs) > MOST:
        i = min(range(len(runs) - 1), key=lambda j: weight[j] + weight[j + 1])
        runs[i : i + 2] = [runs[i] + runs[i + 1]]
        weight[i : i + 2] = [weight[i] + weight[i + 1]]
    name = {x: run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs for x in run}
    return [name[label] for label in labels]
