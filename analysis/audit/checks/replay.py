"""Chosen steps computed anew by the auditor's own code, and compared with the rows that were recorded."""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np

from gradlog.analysis.audit.findings import Line, problems
from gradlog.analysis.common.text import enumerate_some
from gradlog.analysis.reading.run import Run
from gradlog.errors import GradientError, UnsupportedError, UnusableInputError
from gradlog.sketching.projector import Entries, projector
from gradlog.sketching.pytree import as_numpy, flatten

Gradient = Callable[[int], object]
"""From a step's number to its gradient, in any form that ``Logger.step`` takes."""

TOLERANCE = 1e-3
"""Relative distance of two sketches that counts as float noise (thread counts, kernels, machines)."""


def load_hook(script: str | os.PathLike[str]) -> Gradient:
    """Run a script, which is the auditor's own, and return the function ``gradient`` that it defines.

    Raises
    ------
    UnsupportedError
        It defines none.
    UnusableInputError
        It ends with an error.
    """
    try:
        hook = runpy.run_path(os.fspath(script), run_name="gradlog_replay").get("gradient")
    except Exception as error:
        text = f"the script ended with {type(error).__name__}: {error}; expected it to define gradient(step)"
        raise UnusableInputError(f"{os.fspath(script)}: {text}") from error
    if not callable(hook):
        raise UnsupportedError(
            f"{os.fspath(script)}: expected a function gradient(step) that returns the gradient of a step"
        )
    return cast(Gradient, hook)


def choose(run: Run, count: int, seed: int) -> list[int]:
    """Rows to compute anew: half of them the largest gradients, the others at random."""
    usable = np.flatnonzero(run.finite)
    largest = usable[np.argsort(-run.group_norm2[usable].sum(axis=1), kind="stable")[: count // 2]]
    rest = np.setdiff1d(usable, largest)
    rng = np.random.default_rng(seed)
    drawn = rng.choice(rest, min(count - len(largest), len(rest)), replace=False)
    return sorted(np.concatenate([largest, drawn]).tolist())


def replay(run: Run, gradient: Gradient, count: int = 8, seed: int = 0) -> Iterator[Line]:
    """Compare ``count`` steps, in ascending order, with what ``gradient`` gives for them."""
    sketch = projector(run.header.sketch, run.header.tensors, run.n_groups)
    index = {t.name: i for i, t in enumerate(run.header.tensors)}
    out, norm2 = np.empty((run.n_groups, run.k), np.float32), np.empty(run.n_groups)
    rows = choose(run, count, seed)
    if not rows:
        yield Line("SKIP", "replay", "no finite row to compute anew")
        return
    texts, worst = [], 0.0
    for row in rows:
        arrays: list[Entries] = [None] * len(index)
        for name, leaf in flatten(gradient(int(run.steps[row]))):
            if name not in index:
                raise GradientError(f"{name!r} is no parameter of this run; expected {enumerate_some(list(index), 4)}")
            arrays[index[name]] = as_numpy(leaf, name)
        sketch.project(arrays, out, norm2)
        recorded = run.rows.read(row, row + 1).reshape(out.shape).astype(np.float64)
        size = max(float(np.linalg.norm(recorded)), float(np.linalg.norm(out)), 1e-300)
        off = float(np.linalg.norm(out - recorded)) / size
        worst = max(worst, off)
        if not off <= TOLERANCE:
            texts.append(
                f"step {int(run.steps[row])}: the recomputed gradient is {off:.2g} away, relative to its length"
            )
    steps = enumerate_some(run.steps[rows].tolist(), 16)
    yield from problems("replay", texts, f"steps {steps} agree within {worst:.1g}")
