"""Where in a tracker results go, and what every tracker here can do."""

from __future__ import annotations

import abc
import dataclasses
from importlib import import_module
from types import ModuleType

from gradlog.analysis.reading.run import Run
from gradlog.analysis.trackers.curves import Results
from gradlog.errors import MissingDependencyError, UnusableInputError

PROJECT = "gradlog"
"""Project or experiment where none is named."""


@dataclasses.dataclass(frozen=True)
class Destination:
    """What a user said of the place; None where it is left to the tracker."""

    place: str | None = None
    project: str | None = None
    into: str | None = None
    force: bool = False

    def refuse(self, tracker: str, **why: str) -> None:
        """Refuse options that a tracker does not have, with what to do instead.

        Raises
        ------
        UnusableInputError
            One of them was given.
        """
        for field, instead in why.items():
            if getattr(self, field):
                raise UnusableInputError(f"{tracker} takes no {field!r}: {instead}")


class Tracker(abc.ABC):
    """A tracker that is ready to take results: what can be refused was refused before the analysis."""

    def __init__(self, to: Destination, run: Run) -> None:
        self.to = to

    @abc.abstractmethod
    def write(self, results: Results) -> str:
        """Write all curves and the picture; return where they are."""


def package(name: str) -> ModuleType:
    """Import the package of a tracker.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(f"{name} is not installed; install it with: pip install {name}") from error
