"""What a torch optimizer tells about itself: its class and settings, and how many steps it has counted."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch

from gradlog.integrations.hooks import described
from gradlog.integrations.torch.types import Optimizer, Tensors

MOST_GROUPS = 64
"""Parameter groups whose own settings are listed one by one."""

MOST_COUNTS = 8
"""Parameters whose count is asked for; each may wait for a device once."""

MOST_NAMES = 8
"""Optimizers of a run that are named one by one; of more, those of one class share a name."""


def named_optimizers(given: Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer]) -> list[tuple[str, Optimizer]]:
    """Optimizers that make one run, each with its name in it; optimizers that nothing tells apart share one.

    >>> w, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    >>> [name for name, _ in named_optimizers([torch.optim.SGD([w], lr=1), torch.optim.Adam([b])])]
    ['SGD', 'Adam']
    """
    if not isinstance(given, (Mapping, Sequence)):
        return [("", given)]
    for one in given.values() if isinstance(given, Mapping) else given:
        if not hasattr(one, "param_groups"):
            raise TypeError(f"expected torch optimizers, got {type(one).__name__} among them")
    if not given:
        raise ValueError("expected at least one optimizer, got none")
    if isinstance(given, Mapping):
        return list(given.items())
    kinds: dict[str, list[str]] = {}  # of each class, the settings that have been met
    named = []
    for one in given:
        name = type(one).__name__
        met = kinds.setdefault(name, [])
        told = "" if len(given) > MOST_NAMES else str(settings(one))
        if told not in met:
            met.append(told)
        nth = met.index(told)
        named.append((f"{name}{nth + 1}" if nth else name, one))
    alike = len({name for name, _ in named}) == 1
    return [("" if alike else name, one) for name, one in named]


def parameters(optimizer: Optimizer) -> Tensors:
    """Parameters of all groups, frozen ones too; of an optimizer that is still being made, none."""
    return [p for group in getattr(optimizer, "param_groups", ()) for p in group["params"]]


def settings(optimizer: Optimizer) -> dict[str, object]:
    """Class and hyperparameters: those that all parameter groups share, and of each group what differs.

    >>> settings(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5))["settings"]["lr"]
    0.5
    """
    groups = [{k: _number(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    same = {k: v for k, v in groups[0].items() if all(k in g and _equal(g[k], v) for g in groups)}
    own = [{k: v for k, v in group.items() if k not in same} for group in groups[:MOST_GROUPS]]
    return {**described(optimizer, same), **({"groups": own} if any(own) else {})}


def settings_of_all(named: Sequence[tuple[str, Optimizer]]) -> dict[str, object]:
    """Class and hyperparameters of several optimizers, each name as a parameter group."""
    first: dict[str, Optimizer] = {}
    for name, one in named:
        first.setdefault(name, one)
    if len(first) == 1:
        return settings(named[0][1])
    own = [
        {"optimizer": name, **{k: _number(v) for k, v in group.items() if k != "params"}}
        for name, one in first.items()
        for group in one.param_groups
    ]
    return {"class": " + ".join(first), "settings": {}, "groups": own[:MOST_GROUPS]}


def counted(optimizer: torch.optim.Optimizer) -> int:
    """Return how many steps the optimizer has counted, as after its state was restored; 0 where it keeps no count."""
    states = itertools.islice((s for s in optimizer.state.values() if isinstance(s, dict)), MOST_COUNTS)
    counts = [_number(state.get("step", 0)) for state in states]
    return int(max((c for c in counts if isinstance(c, (int, float))), default=0))


def _number(value: object) -> object:
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def _equal(a: object, b: object) -> bool:
    return type(a) is type(b) and str(a) == str(b)
