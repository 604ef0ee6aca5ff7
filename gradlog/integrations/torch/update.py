"""What optimizers do to their parameters, row by row: alone, or beside the gradients that they consumed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gradlog.integrations.hooks import Fill, Row
from gradlog.integrations.torch.capture import Capture, Job
from gradlog.integrations.torch.optimizers.optimizer_steps import OptimizerSteps
from gradlog.integrations.torch.optimizers.steps import inside_another_step
from gradlog.integrations.torch.sketching.sketchers import HostMeasure, Measure, Pieces
from gradlog.integrations.torch.types import Named
from gradlog.recorder.recorder import Recorder


class PairCapture(Capture):
    """Gradients, and the change of the parameters in each row, S(after) - S(before), without a copy of the parameters.

    With ``every=1`` the sketch after one step serves as the one before the next. So the rows add up to the sketch of
    the difference of any two checkpoints, even if other code changed the parameters in between.
    """

    _moves: Measure
    _start: Pieces | None = None

    def __init__(self, recorder: Recorder, job: Job) -> None:
        self._layout = job.header
        super().__init__(recorder, job)

    def _begin(self) -> None:
        super()._begin()
        with self.recorder.guarded():
            self._place()

    def begins(self, steps: OptimizerSteps) -> bool:
        """Note that a step begins: with ``every > 1`` this is where a recorded row starts."""
        if not super().begins(steps):
            return False
        self._look_for_new()
        if not self._over and self._every > 1 and self._due() and not inside_another_step(steps.optimizers):
            with self.recorder.guarded():
                self._start = self._moves.pieces(self._values())
        return True

    def _place(self) -> None:
        """Sketch the parameters as they are, in float64, since sketches of them will be subtracted."""
        self._moves = self._precise()
        self._moves.exchange = self._exchange  # votes of both sketches are counted in one place
        self._start = self._moves.pieces(self._values())

    def _precise(self) -> Measure:
        return Measure(self._layout, self.params, precise=True)

    def _join(self, new: Named) -> None:
        super()._join(new)
        self._layout = self.header
        self._place()

    def _exchanges(self) -> int:
        return super()._exchanges() + 1

    def _row(self) -> Row:
        row = super()._row()
        return row._replace(update=self._change(), later=row.later or self._moves.later)

    def _change(self) -> Fill:
        assert self._start is not None
        end = self._moves.pieces(self._values())
        change = [(b - a, torch.zeros_like(n)) for (a, _), (b, n) in zip(self._start, end, strict=True)]
        self._start = end
        return self._moves.total(change, 0)


class UpdateCapture(PairCapture):
    """The change of the parameters in each row, and no gradient."""

    reads_first = False

    def _precise(self) -> Measure:
        assert not isinstance(self._measure, HostMeasure)  # measure_for gives a run of updates a precise one
        return self._measure

    def _gather(self, steps: OptimizerSteps) -> None:
        """Nothing is to be read before the row is over."""

    def _row(self) -> Row:
        return Capture._row(self)

    def _gathered(self) -> Fill:
        fill = self._change()

        def with_norms(out: NDArray[np.float32], norm2: NDArray[np.float64]) -> int:
            missing = fill(out, norm2)
            norm2[:] = (out.astype(float) ** 2).sum(axis=1)
            return missing

        return with_norms
