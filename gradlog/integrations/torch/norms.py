"""Norms of the parameters, and of what a step changes in them, by group: exact, every N steps.

The parameters are copied before such a step and the copy is let go after it, so that the step needs memory for one more
copy of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gradlog.format.names import UPDATE_NORM, WEIGHT_NORM
from gradlog.integrations.torch.sketching.shards import is_sharded
from gradlog.integrations.torch.types import Number, Tensors

if TYPE_CHECKING:
    from gradlog.integrations.torch.capture import Capture
    from gradlog.integrations.torch.optimizers.optimizer_steps import OptimizerSteps


class Norms:
    """Measures rows whose step is divisible by the option ``norms_every``.

    Parameters
    ----------
    capture : Capture
        Of the run.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture, self._every = capture, capture.recorder.options.norms_every
        self._before: dict[OptimizerSteps, Tensors] = {}
        self._squares: dict[str, torch.Tensor] = {}

    def begins(self, steps: OptimizerSteps) -> None:
        """Keep the parameters of an optimizer as they are before its step, where that is to be measured."""
        recording = self._capture.recorder.recording
        if not self._every or recording is None or recording.next % self._every or not self._capture.due:
            return
        with self._capture.recorder.guarded():
            values = steps.values()
            if any(map(is_sharded, values)):
                self._stop("norms of sharded parameters are not recorded")
            elif steps not in self._before:
                try:
                    self._before[steps] = [p.detach().clone() for p in values]
                except torch.OutOfMemoryError:
                    self._stop("norms of parameters are not recorded: there is no memory for a copy of them")

    def ends(self, steps: OptimizerSteps) -> None:
        """Measure the parameters of an optimizer, now that its step is over."""
        before = self._before.pop(steps, [])
        if not before:
            return
        with self._capture.recorder.guarded():
            header = self._capture.header
            groups = [header.groups[header.tensors[i].group] for i in steps.places]
            self._add(WEIGHT_NORM, before, groups)
            for old, new in zip(before, steps.values(), strict=True):
                old.sub_(new.detach())
            self._add(UPDATE_NORM, before, groups)

    def scalars(self) -> dict[str, Number]:
        """Return the norms of the row, of which nothing is waited for, and begin another one."""
        squares, self._squares = self._squares, {}
        return {name: square.sqrt() for name, square in squares.items()}

    def _add(self, kind: str, tensors: Tensors, groups: Sequence[str]) -> None:
        for tensor, group in zip(tensors, groups, strict=True):
            name, precise = f"{kind}{group}", torch.promote_types(tensor.dtype, torch.float32)
            square = torch.linalg.vector_norm(tensor, dtype=precise).square()
            held = self._squares.get(name)
            self._squares[name] = square if held is None else held + square.to(held.device)

    def _stop(self, why: str) -> None:
        self._every, self._before = 0, {}
        self._capture.recorder.remark(why)
