"""What optimizers do to their parameters, row by row."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gradlog.integrations.hooks import Fill
from gradlog.integrations.torch.capture import Capture
from gradlog.integrations.torch.optimizer_steps import OptimizerSteps
from gradlog.integrations.torch.sketchers import Measure, Pieces
from gradlog.integrations.torch.steps import inside_another_step
from gradlog.integrations.torch.types import Named


class UpdateCapture(Capture):
    """The change of the parameters in each row, S(after) - S(before), without a copy of the parameters.

    With ``every=1`` the sketch after one step serves as the one before the next. So the rows add up to the sketch of
    the difference of any two checkpoints, even if other code changed the parameters in between.
    """

    reads_first = False
    _measure: Measure  # what measure_for gives a run of updates
    _start: Pieces | None = None

    def _begin(self) -> None:
        super()._begin()
        with self.recorder.guarded():
            self._start = self._measure.pieces(self._values())

    def begins(self, steps: OptimizerSteps) -> bool:
        """Note that a step begins: with ``every > 1`` this is where a recorded row starts."""
        if not super().begins(steps):
            return False
        self._look_for_new()
        if not self._over and self._every > 1 and self._due() and not inside_another_step(steps.optimizers):
            with self.recorder.guarded():
                self._start = self._measure.pieces(self._values())
        return True

    def _join(self, new: Named) -> None:
        super()._join(new)
        self._start = self._measure.pieces(self.params)

    def _gather(self, steps: OptimizerSteps) -> None:
        """Nothing is to be read before the row is over."""

    def _gathered(self) -> Fill:
        assert self._start is not None
        end = self._measure.pieces(self._values())
        change = [(b - a, torch.zeros_like(n)) for (a, _), (b, n) in zip(self._start, end, strict=True)]
        self._start = end
        fill = self._measure.total(change, 0)

        def with_norms(out: NDArray[np.float32], norm2: NDArray[np.float64]) -> int:
            missing = fill(out, norm2)
            norm2[:] = (out.astype(float) ** 2).sum(axis=1)
            return missing

        return with_norms
