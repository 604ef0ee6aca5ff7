"""What every executor does: reduce blocks of rows in step order, and make independent calls.

The fold depends on the blocks alone, so that all executors add in the same order and give the same numbers.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from gradlog.analysis.common.types import Progress

FAN = 8
"""Blocks that are folded before they meet the others."""

Block = TypeVar("Block")
Value = TypeVar("Value")
"""What a block becomes."""

Call = tuple[object, ...]


class Pane(NamedTuple, Generic[Block, Value]):
    """Blocks to be folded, and what a fold goes on from; those values may be used up."""

    blocks: Sequence[Block]
    whole: Value | None = None
    group: Value | None = None
    at: int = 0


class Reduction(NamedTuple, Generic[Value]):
    """How blocks become one value.

    Attributes
    ----------
    make : callable
        ``make(block, *shared)`` -> value; threads add ``stop=event``, which ends it early once it is set.
    shared : tuple
        Arguments that all blocks have in common.
    absorb, merge : callable
        Value of two neighbours; ``absorb`` may use them up, ``merge`` leaves both as they are.
    """

    make: Callable[..., Value]
    shared: Call
    absorb: Callable[[Value, Value], Value]
    merge: Callable[[Value, Value], Value]


class Executor(ABC):
    """Where tasks run.

    Attributes
    ----------
    workers : int
        Tasks that run at once in this process.
    """

    @property
    def workers(self) -> int:
        """See the class."""
        return 1

    @abstractmethod
    def fold(self, panes: Sequence[Pane[Block, Value]], work: Reduction[Value], report: Progress) -> list[Value]:
        """Reduce each pane to one value; ``report(done, total)`` on blocks. An error or an interrupt leaves no task."""

    @abstractmethod
    def map(self, function: Callable[..., Value], calls: Sequence[Call], report: Progress) -> list[Value]:
        """Results of independent calls, in order; ``report(done, total)`` on calls. The first error raises."""


class Local(Executor):
    """An executor within this process: it says how calls are made, and joins their results in the thread that asks."""

    @abstractmethod
    def results(
        self,
        function: Callable[..., Value],
        calls: Sequence[Call],
        report: Progress,
        stop: threading.Event | None = None,
    ) -> Generator[Value]:
        """Yield the results of calls in order; threads pass ``stop`` on, and set it when nobody wants more."""

    def fold(self, panes: Sequence[Pane[Block, Value]], work: Reduction[Value], report: Progress) -> list[Value]:
        """See Executor."""
        calls = [(block, *work.shared) for pane in panes for block in pane.blocks]
        with contextlib.closing(self.results(work.make, calls, report, threading.Event())) as values:
            return [fold(itertools.islice(values, len(pane.blocks)), work.absorb, *pane[1:]) for pane in panes]

    def map(self, function: Callable[..., Value], calls: Sequence[Call], report: Progress) -> list[Value]:
        """See Executor."""
        with contextlib.closing(self.results(function, calls, report)) as values:
            return list(values)


def fold(
    parts: Iterable[Value],
    join: Callable[[Value, Value], Value],
    whole: Value | None = None,
    group: Value | None = None,
    at: int = 0,
) -> Value:
    """Reduce in order: every ``FAN`` neighbours from the left, then these groups from the left.

    Two joined ones wait at a time, however many parts there are; and of a cluster's merges only one in ``FAN`` has to
    wait for all that come before. A fold can go on from the ``whole`` of the groups before and the ``group`` of the
    first ``at`` parts of the next one.
    """
    for count, part in enumerate(parts, start=at + 1):
        group = part if group is None else join(group, part)
        if count % FAN == 0:
            whole, group = group if whole is None else join(whole, group), None
    return functools.reduce(join, (value for value in (whole, group) if value is not None))
