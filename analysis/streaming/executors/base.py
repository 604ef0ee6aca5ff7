"""What every executor does: reduce blocks of rows in step order, and make independent calls.

The fold depends on the blocks alone, so that all executors add in the same order and give the same numbers.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from gradlog.analysis.common.types import Progress

FAN = 8
"""Blocks that are folded before they meet the others."""

Block = TypeVar("Block")
Value = TypeVar("Value")
"""What a block becomes."""

Call = tuple[object, ...]


@dataclasses.dataclass
class Fold(Generic[Value]):
    """A reduction in order: every ``FAN`` neighbours from the left, then these groups from the left.

    Two joined ones wait at a time, however many parts there are; and of a cluster's merges only one in ``FAN`` has to
    wait for all that come before.

    Attributes
    ----------
    at : int
        Parts that were added.
    whole, group : object or None
        What the groups before became, and the parts of the next one.

    Examples
    --------
    >>> letters = Fold()
    >>> for letter in "abcdefghij":
    ...     letters.add(letter, lambda left, right: f"({left}{right})")
    >>> letters
    Fold(at=10, whole='(((((((ab)c)d)e)f)g)h)', group='(ij)')
    """

    at: int = 0
    whole: Value | None = None
    group: Value | None = None

    def add(self, part: Value, join: Callable[[Value, Value], Value]) -> None:
        """Add the next part."""
        self.group = part if self.group is None else join(self.group, part)
        self.at += 1
        if self.at % FAN == 0:
            self.whole, self.group = self.group if self.whole is None else join(self.whole, self.group), None

    def value(self, join: Callable[[Value, Value], Value]) -> Value:
        """All parts together; TypeError where there is none."""
        return functools.reduce(join, (value for value in (self.whole, self.group) if value is not None))


class Pane(NamedTuple, Generic[Block, Value]):
    """Blocks to be folded, and the fold that they go on with."""

    blocks: Sequence[Block]
    fold: Fold[Value]


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
    def fold(self, panes: Sequence[Pane[Block, Value]], work: Reduction[Value], report: Progress) -> list[Fold[Value]]:
        """Add blocks of panes to their folds; ``report(done, total)`` on blocks. No error nor interrupt leaves any."""

    @abstractmethod
    def map(self, function: Callable[..., Value], calls: Sequence[Call], report: Progress) -> list[Value]:
        """Results of independent calls, in order; ``report(done, total)`` on calls. The first error raises."""
