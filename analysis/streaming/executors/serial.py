"""One task after another, in the thread that asks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gradlog.analysis.common.types import Progress
from gradlog.analysis.streaming.executors.base import Call, Executor, Pane, Reduction, fold


class Serial(Executor):
    """See the module."""

    def fold(self, panes: Sequence[Pane], work: Reduction, report: Progress) -> list[Any]:
        """See Executor."""
        done, total = itertools.count(1), sum(len(pane.blocks) for pane in panes)

        def values(pane: Pane) -> Iterator[Any]:
            for block in pane.blocks:
                yield work.make(block, *work.shared)
                report(next(done), total)

        return [fold(values(pane), work.absorb, *pane[1:]) for pane in panes]

    def map(self, function: Callable[..., Any], calls: Sequence[Call], report: Progress) -> list[Any]:
        """See Executor."""
        found = []
        for done, call in enumerate(calls, start=1):
            found.append(function(*call))
            report(done, len(calls))
        return found
