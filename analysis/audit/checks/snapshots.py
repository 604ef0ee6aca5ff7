"""Sketches of the parameters that a run kept, against the checkpoints that somebody holds.

The recorder sketches the parameters at the start, at checkpoints and at the end. The same map applied to the same
numbers gives the same sketch, up to the order of float32 additions. Other parameters agree with it only if their
difference lies in the kernel of the map, which was not made for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.audit.checkpoint_files import Checkpoint, parameters, rounded
from gradlog.analysis.audit.findings import Line
from gradlog.analysis.audit.reader import Floats
from gradlog.analysis.common.text import enumerate_some
from gradlog.analysis.reading.run import Run
from gradlog.errors import SpecMismatchError
from gradlog.format.header import TensorInfo
from gradlog.sketching.projector import projector

RELATIVE = 1e-5
"""Of the parameters' norm: float32 sums in whatever order."""


def snapshots(run: Run, files: Sequence[tuple[int, Checkpoint]]) -> Iterator[Line]:
    """Compare each checkpoint with the sketches of the parameters that were kept before the same step.

    Parameters
    ----------
    run : Run
        The latest view.
    files : sequence of (int, Checkpoint)
        STEP=FILE: the parameters before the step of that number.
    """
    for step, checkpoint in files:
        yield _one(run, step, checkpoint)


def _one(run: Run, step: int, checkpoint: Checkpoint) -> Line:
    name = checkpoint.path.name
    kept = [
        (segment.header.joined, theta)
        for segment in run.segments
        for theta in segment.snapshots[segment.snapshot_steps == step]
    ]
    if not kept:
        some = f"; there are some of {enumerate_some(run.info['snapshots'])}" if run.info["snapshots"] else ""
        return Line("SKIP", "snapshots", f"{name}: the run kept no sketch of the parameters before step {step}{some}")
    try:
        if coarse := rounded(checkpoint, run.header.tensors):
            return Line("SKIP", "snapshots", coarse)
        # A rewind may have kept several of one step: the checkpoint belongs to one of its branches.
        off = min((_off(run, checkpoint, joined, theta) for joined, theta in kept), key=lambda o: float(o.max()))
    except SpecMismatchError as error:
        return Line("FAIL", "snapshots", f"{name}: {error}")
    wrong = [run.header.groups[g] for g in np.flatnonzero(~(off <= RELATIVE))]
    if not wrong:
        return Line("PASS", "snapshots", f"{name}: its parameters have the sketch that was kept before step {step}")
    text = f"{name}: its parameters are not those before step {step}: they differ in groups {enumerate_some(wrong)}"
    return Line("FAIL", "snapshots", text, {"step": step, "off": off.tolist()})


def _off(run: Run, checkpoint: Checkpoint, joined: tuple[TensorInfo, ...], kept: NDArray[np.float32]) -> Floats:
    """Distance of the sketches of each group, relative to the parameters' norm."""
    tensors = (*run.header.tensors, *joined)
    theta, norm2 = np.empty((run.n_groups, run.k), np.float32), np.empty(run.n_groups)
    projector(run.header.sketch, tensors, run.n_groups).project(parameters(checkpoint, tensors), theta, norm2)
    apart = np.sqrt(np.square(kept.astype(np.float64) - theta).sum(axis=1))
    relative: Floats = np.divide(apart, np.sqrt(norm2), out=apart.copy(), where=norm2 > 0)
    return relative
