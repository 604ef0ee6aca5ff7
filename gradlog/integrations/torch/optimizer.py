"""What a torch optimizer tells about itself: its class and settings, and how many steps it has counted."""

from __future__ import annotations

import itertools

import torch

from gradlog.integrations.torch.types import Optimizer

MOST_GROUPS = 64
"""Parameter groups whose own settings are listed one by one."""

MOST_COUNTS = 8
"""Parameters whose count is asked for; each may wait for a device once."""


def settings(optimizer: Optimizer) -> dict[str, object]:
    """Class and hyperparameters: those that all parameter groups share, and of each group what differs.

    >>> settings(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5))["settings"]["lr"]
    0.5
    """
    groups = [{k: _number(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    same = {k: v for k, v in groups[0].items() if all(k in g and _equal(g[k], v) for g in groups)}
    own = [{k: v for k, v in group.items() if k not in same} for group in groups[:MOST_GROUPS]]
    kind = type(optimizer)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "settings": same,
        **({"groups": own} if any(own) else {}),
    }


def counted(optimizer: torch.optim.Optimizer) -> int:
    """Return how many steps the optimizer has counted, as after its state was restored; 0 where it keeps no count."""
    states = itertools.islice((s for s in optimizer.state.values() if isinstance(s, dict)), MOST_COUNTS)
    counts = [_number(state.get("step", 0)) for state in states]
    return int(max((c for c in counts if isinstance(c, (int, float))), default=0))


def _number(value: object) -> object:
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def _equal(a: object, b: object) -> bool:
    return type(a) is type(b) and str(a) == str(b)
