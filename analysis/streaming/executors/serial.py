"""One task after another, in the thread that asks."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Generator, Sequence

from gradlog.analysis.common.types import Progress
from gradlog.analysis.streaming.executors.base import Block, Call, Executor, Fold, Pane, Reduction, Value


class Serial(Executor):
    """See the module. Executors of this process differ in how they make the calls: see ``results``."""

    def fold(self, panes: Sequence[Pane[Block, Value]], work: Reduction[Value], report: Progress) -> list[Fold[Value]]:
        """See Executor."""
        calls = [(block, *work.shared) for pane in panes for block in pane.blocks]
        with contextlib.closing(self.results(work.make, calls, report, threading.Event())) as values:
            for pane in panes:
                for value in itertools.islice(values, len(pane.blocks)):
                    pane.fold.add(value, work.absorb)
        return [pane.fold for pane in panes]

    def map(self, function: Callable[..., Value], calls: Sequence[Call], report: Progress) -> list[Value]:
        """See Executor."""
        with contextlib.closing(self.results(function, calls, report)) as values:
            return list(values)

    def results(
        self, make: Callable[..., Value], calls: Sequence[Call], report: Progress, stop: threading.Event | None = None
    ) -> Generator[Value]:
        """Yield the results of calls in order; threads pass ``stop`` on, and set it when nobody wants more."""
        for done, call in enumerate(calls, start=1):
            value = make(*call)
            report(done, len(calls))
            yield value
