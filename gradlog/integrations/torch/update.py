"""What one optimizer does to its parameters, step by step."""

from __future__ import annotations

from typing import Any

import torch

from gradlog.integrations.torch.capture import Capture
from gradlog.integrations.torch.sketchers import Measure, Pieces
from gradlog.integrations.torch.steps import inside_another_step
from gradlog.recorder.recording import Fill


class UpdateCapture(Capture):
    """The change of the parameters in each step, S(after) - S(before), without a copy of the parameters.

    With ``every=1`` the sketch after one step serves as the one before the next. So the rows add up to the sketch of
    the difference of any two checkpoints, even if other code changed the parameters in between.
    """

    _measure: Measure  # what measure_for gives a run of updates

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._start: Pieces | None = None
        with self._logger.guarded():
            self._start = self._measure.pieces(self.params)

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """Note that a step begins: with ``every > 1`` this is where a recorded one starts."""
        self._fired = True
        if not self._here:
            self._elsewhere()
            return None
        self._unread = self._begun = True
        self._look_for_new()
        if self._every > 1 and self._due() and not inside_another_step(self._optimizers):
            with self._logger.guarded():
                self._start = self._measure.pieces(self._values())
        return None

    def _join(self, new: list[tuple[str, Any]]) -> None:
        super()._join(new)
        self._start = self._measure.pieces(self.params)

    def _gradient(self) -> Fill:
        assert self._start is not None
        end = self._measure.pieces(self._values())
        change = [(b - a, torch.zeros_like(n)) for (a, _), (b, n) in zip(self._start, end, strict=True)]
        self._start = end
        fill = self._measure.total(change, 0)

        def with_norms(out: Any, norm2: Any) -> int:
            missing = fill(out, norm2)
            norm2[:] = (out.astype(float) ** 2).sum(axis=1)
            return missing

        return with_norms
