"""The loss of a step whose loop tells none: the values that ``backward`` was called on.

The gradient that an optimizer consumes is that of their sum: over the micro-batches of a step, which a loop has mostly
divided by their number, or over several losses. No value is waited for; they stay on their device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradlog.integrations.torch.types import Number


class Loss:
    """Adds up what ``backward`` is called on, from one step to the next."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | None = None
        self._over = True

    def add(self, tensors: object, gradients: object, params: Sequence[torch.Tensor]) -> None:
        """Note a backward pass; the first one after a step, or after all gradients were let go, begins a new sum."""
        value = _value(tensors, gradients)
        if self._over or all(p.grad is None for p in params):
            self._sum, self._over = value, False
        elif self._sum is not None:
            self._sum = None if value is None else self._sum + value

    def ends(self) -> None:
        """Note that the gradients were used: a step of any optimizer, or a closure, is over."""
        self._over = True

    def scalars(self, scale: Number | None) -> dict[str, Number]:
        """Return the loss, free of its scale; nothing where it is not known."""
        if self._sum is None:
            return {}
        return {"loss": self._sum if scale is None else self._sum / scale}


def _value(tensors: object, gradients: object) -> torch.Tensor | None:
    """Sum of scalars that are differentiated as they are; None for anything else."""
    given = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors) if isinstance(tensors, Sequence) else []
    weighted = gradients if isinstance(gradients, Sequence) else [gradients]
    plain = all(isinstance(t, torch.Tensor) and t.numel() == 1 and not hasattr(t, "full_tensor") for t in given)
    if not given or not plain or any(g is not None for g in weighted):
        return None
    values = [t.detach().reshape(()).float() for t in given]
    return sum(values[1:], values[0].clone())
