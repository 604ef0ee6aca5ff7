"""Conditions on the rows of a run that grows: each look reads what is new, and tells where a condition became true."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gradlog.analysis.common.types import Float64
from gradlog.analysis.following.expressions import Expression, Rows
from gradlog.format.header import NONFINITE, PARTIAL, SKIPPED

if TYPE_CHECKING:
    from gradlog.analysis.reading.rows import Block
    from gradlog.analysis.reading.run import Run

FLAGS = {"nonfinite": NONFINITE, "skipped": SKIPPED, "partial": PARTIAL}


@dataclasses.dataclass(frozen=True)
class Alert:
    """A row at which a condition became true.

    Attributes
    ----------
    step : int
    condition : str
    values : dict of str to float
        What the condition names, in this row.
    """

    step: int
    condition: str
    values: Mapping[str, float]


class Alerts:
    """Conditions, and how far a run was checked for them.

    Parameters
    ----------
    conditions : sequence of Expression
    first_step : int
        Steps before this one tell no alerts; statistics use them.

    Examples
    --------
    >>> alerts = Alerts([Expression("norm > 10 * median(200)")])                 # doctest: +SKIP
    >>> [alert.step for alert in alerts.check(open_run("run.zarr"))]             # doctest: +SKIP
    [116]
    """

    def __init__(self, conditions: Sequence[Expression], first_step: int = 0) -> None:
        self._conditions, self._first_step = conditions, first_step
        self._names = sorted(set().union(*(c.names for c in conditions)))
        self._window = max(c.window for c in conditions)
        self._before: dict[str, Float64] = {}
        self._held = [False] * len(conditions)
        self._rows, self._segments = 0, set[str]()

    def check(self, run: Run, live: bool = False) -> list[Alert]:
        """Check the rows since the last look; after a rewind, those that were recorded again too.

        Of a run that is ``live`` the newest row waits for the next look: the loop may still give it scalars.

        Returns
        -------
        list of Alert
            In the order of steps: of each condition, where it became true first.
        """
        before = self._rows
        for segment in run.segments:
            if len(segment) and segment.header.name not in self._segments:
                self._segments.add(segment.header.name)
                self._rows = min(self._rows, int(np.searchsorted(run.steps, segment.steps[0])))
        if self._rows < before:  # statistics are of the rows that are left
            self._before.clear()
            self._held = [False] * len(self._conditions)
        logged = [name for name in self._names if name in run.scalar_names]
        found: dict[str, Alert] = {}
        for block in run.columns(logged, first=0 if self._rows < before else self._rows):
            part = slice(block.start, min(block.start + len(block.finite), run.n_steps - live))
            if part.start < part.stop:
                for alert in self._check(run, block, part):
                    found.setdefault(alert.condition, alert)
                self._rows = max(self._rows, part.stop)
        return sorted(found.values(), key=lambda alert: alert.step)

    def unknown(self, run: Run) -> list[str]:
        """Names in the conditions that no row of the run has so far."""
        groups = {f'norm("{group}")' for group in run.groups}
        return [name for name in self._names if name not in {"norm", "step", *FLAGS, *groups, *run.scalar_names}]

    def _check(self, run: Run, block: Block, part: slice) -> list[Alert]:
        """Check the first rows of a block, which are ``part`` of the run."""
        steps = run.steps[part]
        rows = Rows({name: self._values(run, block, part, name) for name in self._names}, self._before)
        found = []
        for i, condition in enumerate(self._conditions):
            holds = condition.true(rows) & (steps >= self._first_step)
            begins = np.flatnonzero(holds & ~np.append(self._held[i], holds[:-1]))
            begins = begins[begins + part.start >= self._rows]
            self._held[i] = bool(holds[-1])
            if len(begins):
                row = int(begins[0])
                found.append(Alert(int(steps[row]), condition.text, condition.told(rows, row)))
        for name, values in rows.values.items() if self._window else ():
            known = np.concatenate([self._before.get(name, np.empty(0)), values[np.isfinite(values)]])
            self._before[name] = known[-self._window :]
        return found

    @staticmethod
    def _values(run: Run, block: Block, part: slice, name: str) -> Float64:
        """Return what these rows have under a name; NaN where nothing."""
        group = name.removeprefix('norm("').removesuffix('")')
        found = np.full(len(block.finite), np.nan)
        if name == "norm":
            found = np.sqrt(block.norms.sum(axis=1))
        elif name == "step":
            found = run.steps[part].astype(float)
        elif name in FLAGS:
            found = ((run.flags[part] & FLAGS[name]) != 0).astype(float)
        elif group != name and group in run.groups:
            found = np.sqrt(block.norms[:, run.groups.index(group)])
        return np.asarray(block.scalars.get(name, found), np.float64)[: part.stop - part.start]
