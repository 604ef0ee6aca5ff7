"""A run with scalars that it did not log itself: joined from a tracker's file by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.reading.rows import Block
from gradlog.analysis.reading.run import Run, View
from gradlog.analysis.reading.scalar_files import Points, read_points
from gradlog.analysis.reading.store.metadata import Metadata
from gradlog.errors import UnusableInputError


class RunWithScalars(Run):
    """A run whose scalars come in part from files; ``scalar_sources`` names them. No cache keeps its results."""

    def __init__(
        self, metadata: Metadata, view: View, steps: tuple[int, int] | None, scalars: Mapping[str, str]
    ) -> None:
        super().__init__(metadata, view, steps)
        self.content = None  # the files may change
        self._joined: dict[str, Float64] = {}
        sources: dict[str, str] = {}
        for name, source in scalars.items():
            if name in self._logged:
                raise UnusableInputError(f"{self.where} has logged a {name} of its own; join it under another name")
            path, tag = place(source, name)
            full, points = read_points(path, tag)
            column = on_steps(points, self.steps)
            known = int(np.count_nonzero(~np.isnan(column)))
            if not known:
                raise UnusableInputError(f"{path}: no step with a {full} is a step of the run; {_apart(points, self)}")
            self._joined[name] = column
            sources[name] = f"{known:,} of {len(column):,} steps have a {name}, from {path}:{full}"
        self.scalar_sources = sources

    @cached_property
    def scalar_names(self) -> list[str]:
        """Names of the scalars that were logged, and of those that were joined."""
        return [*super().scalar_names, *self._joined]

    def columns(
        self, names: Sequence[str] = (), norms: bool = True, first: int = 0, stop: int | None = None
    ) -> Iterator[Block]:
        """As of ``Run``."""
        logged = [name for name in names if name not in self._joined]
        for block in super().columns(logged, norms, first, stop):
            rows = slice(block.start, block.start + len(block.finite))
            own = {name: self._joined[name][rows] for name in names if name in self._joined}
            both = {**block.scalars, **own}
            yield dataclasses.replace(block, scalars={name: both[name] for name in names})


def place(source: str, name: str) -> tuple[Path, str]:
    """Split ``FILE`` or ``FILE:TAG``; without a tag it is the scalar's own name.

    >>> place("logs/adamw:train/loss", "loss"), place("metrics/loss", "loss")
    ((PosixPath('logs/adamw'), 'train/loss'), (PosixPath('metrics/loss'), 'loss'))
    """
    file, colon, tag = source.rpartition(":")
    if not colon or Path(source).exists():
        return Path(source), name
    if Path(file).exists() or ":" not in file:
        return Path(file), tag
    file, _, first = file.partition(":")
    return Path(file), f"{first}:{tag}"


def named(text: str) -> tuple[str, str]:
    """Split ``NAME=FILE[:TAG]`` of the command line; without a name it is the loss.

    >>> named("lr=run.csv:lr"), named("logs/adamw:train/loss")
    (('lr', 'run.csv:lr'), ('loss', 'logs/adamw:train/loss'))
    """
    name, equals, source = text.partition("=")
    return (name, source) if equals and name.isidentifier() and not Path(text).exists() else ("loss", text)


def on_steps(points: Points, steps: NDArray[np.int64]) -> Float64:
    """Numbers at the steps of a run, NaN where there is none; of several at one step the last.

    >>> from array import array
    >>> on_steps(Points(array("q", [2, 0, 2]), array("d", [5.0, 1.0, 6.0])), np.array([0, 1, 2]))
    array([ 1., nan,  6.])
    """
    known, values = np.asarray(points.steps, np.int64), np.asarray(points.values, np.float64)
    order = np.argsort(known, kind="stable")
    known, values = known[order], values[order]
    if not len(known):
        return np.full(len(steps), np.nan)
    at = np.searchsorted(known, steps, "right") - 1
    return np.where((at >= 0) & (known[at] == steps), values[at], np.nan)


def _apart(points: Points, run: Run) -> str:
    if not len(points.steps) or not run.n_steps:
        return "one of them has no steps"
    return f"the file has {min(points.steps):,} to {max(points.steps):,}, the run {run.steps[0]:,} to {run.steps[-1]:,}"
