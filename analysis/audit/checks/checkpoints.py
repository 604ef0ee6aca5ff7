"""The recorded rows against model checkpoints: between two of them the parameters moved by the sum of the updates.

S is linear, so S(theta_b - theta_a) = sum of S u_t over the steps a <= t < b. If a run records updates
(``what="update"``), this holds for any optimizer. If it records gradients and the optimizer is plain SGD,
u_t = -lr_t g_t.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.audit.checkpoint_files import Checkpoint, Parameters, parameters, rounded
from gradlog.analysis.audit.findings import Line
from gradlog.analysis.audit.reader import Floats
from gradlog.analysis.common.text import enumerate_some
from gradlog.analysis.reading.run import Run
from gradlog.errors import SpecMismatchError
from gradlog.format.header import SKIPPED
from gradlog.sketching.projector import projector

RELATIVE = 2e-5
"""Of the updates' root sum of squares: float32 rows."""

ROUNDINGS = 4.0
"""Standard errors of T roundings of the parameters that are allowed."""

_EPS = {"bfloat16": 2.0**-9, "float16": 2.0**-12}


def checkpoints(run: Run, files: Sequence[tuple[int, Checkpoint]], sgd: bool = False) -> Iterator[Line]:
    """Compare each interval between two checkpoints with the rows recorded in it.

    Parameters
    ----------
    run : Run
        The latest view.
    files : sequence of (int, Checkpoint)
        STEP=FILE: the parameters before the step of that number, as ``Logger.state_dict`` counts.
    sgd : bool
        The optimizer is known to be plain SGD (no momentum, weight decay or clipping after the record): then rows
        of gradients that do not add up are a FAIL and no WARN.
    """
    files = sorted(files, key=lambda f: f[0])
    if len(files) < 2:
        yield Line("SKIP", "checkpoints", "two checkpoints are needed to compare what happened between them")
        return
    values = []
    for _, checkpoint in files:
        try:
            if coarse := rounded(checkpoint, run.header.tensors):
                yield Line("SKIP", "checkpoints", coarse)
                return
            values.append(parameters(checkpoint, run.header.tensors))
        except SpecMismatchError as error:
            yield Line("FAIL", "checkpoints", str(error))
            return
    for ((a, _), start), ((b, _), stop) in pairwise(zip(files, values, strict=True)):
        yield _interval(run, (a, b), start, stop, sgd)


def _interval(run: Run, steps: tuple[int, int], start: list[Parameters], stop: list[Parameters], sgd: bool) -> Line:
    a, b = steps
    span = f"steps {a} to {b - 1}"
    rows = np.flatnonzero((run.steps >= a) & (run.steps < b))
    why = _unusable(run, rows)
    if why:
        return Line("SKIP", "checkpoints", f"{span}: {why}")
    if len(rows) != b - a:
        return Line("WARN", "checkpoints", f"{span}: {b - a - len(rows):,} of these steps are not in the run")
    weights = _weights(run, rows)
    if weights is None:
        return Line("SKIP", "checkpoints", f"{span}: rows of gradients, and not one learning rate a step was logged")
    total, energy = _sum(run, rows, weights)
    if not np.isfinite(energy).all():
        return Line("SKIP", "checkpoints", f"{span}: some of its rows hold no update, or NaN or inf")
    moved = np.empty((run.n_groups, run.k), np.float32)
    change = [(y - x).astype(np.result_type(x, np.float32), copy=False) for x, y in zip(start, stop, strict=True)]
    projector(run.header.sketch, run.header.tensors, run.n_groups).project(change, moved, np.empty(run.n_groups))
    off = np.sqrt(np.square(moved - total).sum(axis=1))
    allowed = _allowed(run, len(rows), stop, energy)
    wrong = [run.header.groups[g] for g in np.flatnonzero(off > allowed)]
    facts = {"first": a, "last": b - 1, "off": off.tolist(), "allowed": allowed.tolist()}
    if not wrong:
        typical = np.sqrt(energy.sum() / len(rows))
        share = float(np.sqrt(np.square(allowed).sum()) / typical) if typical > 0 else 0.0
        text = f"{span}: the rows add up to the difference of the checkpoints"
        if share > 1:
            return Line("WARN", "checkpoints", f"{text}, but rounding could hide a missing row", facts)
        return Line("PASS", "checkpoints", f"{text}; resolution {100 * share:.2g} % of one row", facts)
    known = run.updates is not None or sgd
    reason = "" if known else "; either the optimizer is not plain SGD, or rows were changed (--sgd if it is)"
    text = (
        f"{span}: the rows do not add up to the difference of the checkpoints in groups {enumerate_some(wrong)}{reason}"
    )
    return Line("FAIL" if known else "WARN", "checkpoints", text, facts)


def _unusable(run: Run, rows: NDArray[np.int64]) -> str:
    if run.header.every > 1:
        return f"only every {run.header.every}th step is recorded"
    if run.updates is None and run.header.stage != "consumed":
        return f"the gradients are of stage {run.header.stage!r}, not the ones the optimizer was handed"
    if not run.finite[rows].all():
        return "there are rows with NaN or inf"
    return ""


def _weights(run: Run, rows: NDArray[np.int64]) -> Floats | None:
    """Factor of each row; minus the learning rate for gradients, 0 for steps that the optimizer skipped."""
    kept = (run.flags[rows] & SKIPPED) == 0
    if run.updates is not None:
        return np.ones(len(rows))
    rates = run.scalar_columns.get("lr")
    several = [name for name in run.scalar_columns if name.startswith("lr/")]
    if rates is None or any(not np.array_equal(run.scalar_columns[n][rows], rates[rows]) for n in several):
        return None
    return np.where(kept, -rates[rows], 0.0) if np.isfinite(rates[rows]).all() else None


def _sum(run: Run, rows: NDArray[np.int64], weights: Floats) -> tuple[Floats, Floats]:
    """Weighted sum of the sketches, (group, k), and the weighted energy of each group."""
    total, energy = np.zeros((run.n_groups, run.k)), np.zeros(run.n_groups)
    source = run.rows if run.updates is None else run.updates
    for start in range(0, len(rows), run.rows.chunk):
        part, w = rows[start : start + run.rows.chunk], weights[start : start + run.rows.chunk]
        cube = source.read(int(part[0]), int(part[-1]) + 1).reshape(len(part), run.n_groups, run.k)
        weighted = cube.astype(np.float64) * w[:, None, None]
        total += weighted.sum(axis=0)
        energy += np.square(weighted).sum(axis=(0, 2))
    return total, energy


def _allowed(run: Run, steps: int, parameters: list[Parameters], energy: Floats) -> Floats:
    """How far rounding alone may take the two sides apart, in norm, (group,)."""
    rounding = np.zeros(run.n_groups)
    for t, x in zip(run.header.tensors, parameters, strict=True):
        eps = 2.0**-25 if run.updates is not None else _EPS.get(t.dtype, 2.0**-25)
        rounding[t.group] += (eps * float(np.linalg.norm(x))) ** 2
    bits = 2.0**-run.header.sketch_bits
    return ROUNDINGS * np.sqrt(rounding * steps) + (RELATIVE + bits) * np.sqrt(energy) + 1e-12 * np.sqrt(rounding)
