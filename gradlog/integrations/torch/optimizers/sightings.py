"""Whether the steps that train some parameters are seen, and what to say where they are not."""

from __future__ import annotations

import torch

from gradlog.integrations.torch.optimizers.steps import is_recorded

PATIENT = 100
"""Signs of training without a step that is seen, before that is said while training goes on."""


class Sightings:
    """Counts steps that were seen and signs of steps that were not.

    Parameters
    ----------
    optimizers : list of torch.optim.Optimizer
        Whose steps are seen.
    params : list of Tensor
        What they train.

    Attributes
    ----------
    steps : int
        Steps seen so far.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer], params: list[torch.Tensor]) -> None:
        self.steps = 0
        self._optimizers = optimizers
        self._params = params
        self._start = _versions(params)
        self._clipped = 0
        self._others, self._usual, self._other = 0, 0, ""

    def step(self) -> None:
        """Count a step of ours."""
        self.steps += 1
        # Steps of others between two of ours are a habit of this loop, as in meta-learning.
        self._usual, self._others, self._clipped = max(self._usual, self._others), 0, 0

    def clipped_again(self) -> str:
        """Count clipping that followed clipping without a step; return what to say about it, if anything."""
        self._clipped += 1
        return f"gradients were clipped {PATIENT} times and no step was seen" if self._clipped == PATIENT else ""

    def another(self, optimizer: torch.optim.Optimizer, mine: set[int]) -> str:
        """Count a step of some optimizer of this process; return what to say about it, if anything."""
        if any(optimizer is one for one in self._optimizers) or is_recorded(optimizer):
            return ""
        if not any(id(p) in mine for group in optimizer.param_groups for p in group["params"][:1]):
            return ""
        self._others += 1
        self._other = type(optimizer).__name__
        return self.missing() if self._others == max(PATIENT, 2 * self._usual + 1) else ""

    def missing(self) -> str:
        """Tell what is known about steps that were not seen; empty where nothing is missing."""
        if self._others > self._usual:
            return (
                f"the last {self._others} steps of these parameters were taken by another optimizer ({self._other}) "
                "and are not recorded; attach to that one too"
            )
        if self.steps:
            return ""
        changed = ", though the parameters changed" if _versions(self._params) != self._start else ""
        return (
            f"no call of {type(self._optimizers[0]).__name__}.step() was seen{changed}; attach to the optimizer whose "
            "step() the loop calls, in the process that trains"
        )


def _versions(params: list[torch.Tensor]) -> list[int]:
    """Change with every change of a parameter in place."""
    return [p._version for p in params]
