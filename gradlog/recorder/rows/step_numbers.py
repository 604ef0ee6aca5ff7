"""The steps of a training loop as the loop tells of them: their numbers, and scalars that come before or after."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gradlog.errors import StepOrderError


class Steps:
    """Numbers the steps of one loop and gives each its scalars.

    Parameters
    ----------
    notify : callable
        Told once where the loop's own numbers go back.

    Attributes
    ----------
    seen : int
        Steps so far.
    waiting : int
        Calls of :meth:`sort` since the last one.

    Examples
    --------
    >>> steps = Steps(print)
    >>> steps.sort({"loss": 3.0}), steps.claim(), steps.sort({"loss": 2.0, "accuracy": 0.5}), steps.claim()
    ({}, {'loss': 3.0}, {'accuracy': 0.5}, {'loss': 2.0})
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.seen, self.waiting = 0, 0
        self._notify = notify
        self._shift = 0
        self._precedes: dict[str, bool] = {}
        self._pending: dict[str, object] = {}

    def number(self, step: int, least: int, following: int, strict: bool) -> int:
        """Return the number of a step that the loop calls ``step``; a loop that counts anew is counted on.

        Parameters
        ----------
        step, least, following : int
            What the loop says, the least that the store can take, and what comes next by itself.
        strict : bool
            Refuse a number that is too low.

        Raises
        ------
        StepOrderError
            If ``strict``.
        """
        if step + self._shift >= least:
            return step + self._shift
        if strict:
            raise StepOrderError(f"steps must increase: expected at least {least}, got {step}")
        if self._shift == 0:
            self._notify(
                f"steps must increase: expected at least {least}, got {step}; it is stored as step {following}, and "
                "those after it are counted on from there. Number the steps of the whole run, or leave the numbers out"
            )
        self._shift = following - step
        return following

    def sort(self, scalars: Mapping[str, object]) -> dict[str, object]:
        """Keep scalars that precede their step; return the others, which belong to the step just taken.

        The first use of a name decides which it is: before any step, or after one.
        """
        self.waiting += 1
        now = {}
        for name, value in scalars.items():
            value = value.detach() if hasattr(value, "detach") else value
            if self._precedes.setdefault(name, self.seen == 0):
                self._pending[name] = value
            else:
                now[name] = value
        return now

    def tells(self, name: str) -> bool:
        """Whether the loop has given a scalar of this name."""
        return name in self._precedes

    def claim(self) -> dict[str, object]:
        """Take what waits: a step is here."""
        pending, self._pending = self._pending, {}
        self.seen, self.waiting = self.seen + 1, 0
        return pending

    def unclaimed(self) -> str:
        """Tell of scalars that found no step; empty where there are none."""
        if not self._pending or not self.seen:
            return ""
        return (
            f"the last value of {', '.join(self._pending)} found no step: it was first given before a step, so each "
            "went to the step that followed; if it belongs to the step before, give it after that step from the start"
        )
