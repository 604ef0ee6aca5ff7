"""Steps per epoch of a run, from the caller, a note, or the logged ``epoch``."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.reading.run import Run

MOST = 2**40
"""Steps of an epoch, beyond those of any run."""


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Epochs of ``steps`` steps, of which one begins at step ``start``; 0 steps: not known, ``why`` says so.

    ``drawn`` is False where every batch is drawn anew, so that there are none.
    """

    steps: int = 0
    start: int = 0
    source: str = ""
    why: str = ""
    drawn: bool = True

    @property
    def known(self) -> bool:
        """Whether it is known which steps share an epoch, or that none do."""
        return self.steps > 0 or not self.drawn

    @property
    def recipe(self) -> tuple[int, int] | None:
        """What a pass must know to add rows up by epoch."""
        return (self.steps, self.start) if self.steps else None


def epochs_of(run: Run, steps: int | None = None) -> Epochs:
    """Find the epochs of a run.

    Parameters
    ----------
    run : Run
    steps : int, optional
        Steps of an epoch, 0 for batches that are drawn anew every time. Default: the note ``steps_per_epoch`` of the
        run, or what its logged scalar ``epoch`` tells.
    """
    if steps is not None and steps < 0:
        raise ValueError(f"steps_per_epoch must not be negative, got {steps}")
    start = 1 if run.n_steps and int(run.steps[0]) == 1 else 0
    source = "steps_per_epoch"
    if steps is None:
        steps, source = _noted(run.info["provenance"].get("notes")), "the note steps_per_epoch"
    if steps is not None:
        found = Epochs(min(steps, MOST), start, source, drawn=steps > 0)
    elif "epoch" in run.scalar_names:
        found = _logged(run.steps, run.scalar_columns["epoch"])
    else:
        found = Epochs(why="no epoch was logged")
    if found.steps % run.header.every:
        return Epochs(why=f"an epoch of {found.steps} steps is no multiple of every={run.header.every}")
    return found


def _noted(notes: object) -> int | None:
    value = notes.get("steps_per_epoch") if isinstance(notes, dict) else None
    whole = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST and value % 1 == 0
    return int(value) if whole and value is not None else None


def _logged(steps: NDArray[np.int64], epoch: NDArray[np.float64]) -> Epochs:
    """Epochs between the steps at which the logged number grows.

    A fraction that begins above 0 is what is done after the step (Hugging Face), else before it.
    """
    seen = np.isfinite(epoch)
    steps, epoch = steps[seen], np.round(epoch[seen], 6)
    if len(epoch) == 0:
        return Epochs(why="no epoch was logged")
    after = bool((epoch != np.floor(epoch)).any() and epoch[0] != np.floor(epoch[0]))
    number = np.ceil(epoch) - 1 if after else np.floor(epoch)
    begins = steps[np.flatnonzero(np.diff(number)) + 1]
    if len(begins) == 0:
        whole = int(steps[-1] - steps[0]) + 1
        return Epochs(whole, int(steps[0]), "the logged epoch, which does not end")
    lengths = np.diff(begins) if len(begins) > 1 else begins - steps[0]
    if (lengths != lengths[0]).any() or lengths[0] < 1 or begins[0] - steps[0] > lengths[0]:
        return Epochs(why="the logged epochs differ in length")
    return Epochs(int(lengths[0]), int(begins[0]), "the logged epoch")
