"""What every executor does: reduce blocks of rows in step order, and make independent calls.

The fold depends on the blocks alone, so that all executors add in the same order and give the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from gradlog.analysis.common.types import Progress

FAN = 8
"""Blocks that are folded before they meet the others."""

Call = tuple[Any, ...]


class Pane(NamedTuple):
    """Blocks to be folded, and what a fold goes on from; those values may be used up."""

    blocks: Sequence[Any]
    whole: Any = None
    group: Any = None
    at: int = 0


class Reduction(NamedTuple):
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

    make: Callable[..., Any]
    shared: Call
    absorb: Callable[[Any, Any], Any]
    merge: Callable[[Any, Any], Any]


class Executor(ABC):
    """Where tasks run.

    Attributes
    ----------
    workers : int
        Tasks that run at once in this process.
    """

    workers: int = 1

    @abstractmethod
    def fold(self, panes: Sequence[Pane], work: Reduction, report: Progress) -> list[Any]:
        """Reduce each pane to one value; ``report(done, total)`` on blocks. An error or an interrupt leaves no task."""

    @abstractmethod
    def map(self, function: Callable[..., Any], calls: Sequence[Call], report: Progress) -> list[Any]:
        """Results of independent calls, in order; ``report(done, total)`` on calls. The first error raises."""


def same(value: Any) -> Any:
    """Return what was given: a task that holds a value."""
    return value


def fold(
    parts: Iterable[Any], join: Callable[[Any, Any], Any], whole: Any = None, group: Any = None, at: int = 0
) -> Any:
    """Reduce in order: every ``FAN`` neighbours from the left, then these groups from the left.

    Two joined ones wait at a time, however many parts there are; and of a cluster's merges only one in ``FAN`` has to
    wait for all that come before. A fold can go on from the ``whole`` of the groups before and the ``group`` of the
    first ``at`` parts of the next one.
    """
    for count, part in enumerate(parts, start=at + 1):
        group = part if group is None else join(group, part)
        if count % FAN == 0:
            whole, group = group if whole is None else join(whole, group), None
    if group is None:
        return whole
    return group if whole is None else join(whole, group)
