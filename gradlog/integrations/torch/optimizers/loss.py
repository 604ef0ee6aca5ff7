"""The loss of a step whose loop tells none: the values that ``backward`` was called on.

The gradient that an optimizer consumes is that of their sum: over the micro-batches of a step, which a loop has mostly
divided by their number, or over several losses. No value is waited for; they stay on their device.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

import torch

from gradlog.integrations.torch.types import Number


class Loss(threading.local):
    """Adds up what ``backward`` is called on, from one step to the next; in each thread for itself."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | None = None
        self._over = True

    def add(self, tensors: object, gradients: object, params: Sequence[torch.Tensor]) -> None:
        """Note a backward pass; the first one after a step, or after all gradients were let go, begins a new sum."""
        begins = self._over or all(p.grad is None for p in params)
        before, self._sum, self._over = self._sum, None, False
        with contextlib.suppress(Exception):  # tensors that only pretend, say: no value is known of them
            value = _value(tensors, gradients)
            if begins or before is None or value is None:
                self._sum = value if begins else None
            else:
                self._sum = before + _beside(before, value)

    def ends(self) -> None:
        """Note that the gradients were used: a step of any optimizer, or a closure, is over."""
        self._over = True

    def used(self, known: torch.Tensor | None) -> torch.Tensor | None:
        """Take the sum that a step of the run has used; what is ``known`` of the row where no backward pass ran."""
        value, self._sum, self._over = self._sum, None, True
        return known if value is None else value


def unscaled(loss: torch.Tensor | None, scale: Number | None) -> dict[str, Number]:
    """Return the loss, free of its scale, as a scalar of a row; nothing where it is not known."""
    if loss is None:
        return {}
    return {"loss": loss if scale is None else loss / _beside(loss, scale)}


def _beside(value: torch.Tensor, other: Number) -> Number:
    """Return another number where ``value`` can be combined with it, without waiting for a device."""
    if value.device.type == "cpu" or not isinstance(other, torch.Tensor):
        return other
    return other.to(value.device, non_blocking=True)


def _value(tensors: object, gradients: object) -> torch.Tensor | None:
    """Sum of scalars that are differentiated as they are; None for anything else."""
    given = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors) if isinstance(tensors, Sequence) else []
    weighted = gradients if isinstance(gradients, Sequence) else [gradients]
    plain = all(isinstance(t, torch.Tensor) and t.numel() == 1 and not hasattr(t, "full_tensor") for t in given)
    if not given or not plain or any(g is not None for g in weighted):
        return None
    values = [t.detach().reshape(()).float() for t in given]
    total = values[0].clone()
    for value in values[1:]:
        total = total + _beside(total, value)
    return total
