"""Words for events, for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradlog.analysis.common.text import Style, counted

if TYPE_CHECKING:
    from gradlog.analysis.events.band import Departure
    from gradlog.analysis.events.events import Event

KINDS = {
    "non-finite": "NaN or inf in the gradient",
    "learning rate": "the learning rate had jumped",
    "one group": "one group alone",
    "one batch": "like one odd batch: loss and norm up together, soon over",
    "": "no known pattern",
}
"""What an event is like, by ``Event.kind``."""

_SERIES = {
    "lr": "learning rate", "change": "change of the gradient", "norm": "gradient norm", "non-finite": "NaN or inf",
}  # fmt: skip


def named(series: str) -> str:
    """Name a series of the run.

    >>> named("lr"), named("loss")
    ('learning rate', 'loss')
    """
    return _SERIES.get(series, series)


def steps(event: Event) -> str:
    """Name the steps of an event.

    >>> from types import SimpleNamespace
    >>> steps(SimpleNamespace(first_step=116, last_step=118))
    'steps 116 to 118'
    """
    return _steps(event.first_step, event.last_step)


def _steps(first: int, last: int) -> str:
    return f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"


def told(departure: Departure, style: Style, since: int | None = None) -> str:
    """Tell when a series left its band, and how far; shorter where it did so at the known step ``since``."""
    if math.isinf(departure.ratio):
        far = ["infinite"]
    else:
        far = [] if math.isnan(departure.ratio) else [f"{_times(departure.ratio, style)} times"]
        far += [f"{abs(departure.score):.0f} deviations"] if math.isfinite(departure.score) else []
    name = departure.series if departure.of_group else named(departure.series)
    when, far = ("", far[:1]) if departure.step == since else (f" at step {departure.step:,}", far)
    return f"{name}{when}" + (f" ({', '.join(far)})" if far else "")


def _times(ratio: float, style: Style) -> str:
    """Two digits, or the whole number."""
    return style.count(round(ratio)) if 100 <= ratio < 1e6 else style.number(ratio, 2)


def lead(event: Event) -> str:
    """Tell by how many steps the first group was ahead of the loss; empty where it was not."""
    loss = next((d.step for d in event.series if d.series == "loss"), None)
    ahead = loss - event.groups[0].step if event.groups and loss is not None else 0
    return f"{counted(ahead, 'step')} before the loss" if ahead > 0 else ""


def shares(event: Event, style: Style) -> list[str]:
    """Tell the groups' shares of the jump, largest first, but for those below 1 %."""
    largest = sorted(event.shares.items(), key=lambda item: -item[1])
    return [f"{name}: {style.percent(share, 0)}" for name, share in largest if share >= 0.01]


def cosine(ends: tuple[float, float, float], style: Style) -> str:
    """Show a cosine with its interval."""
    value, low, high = ends
    return style.fixed(value, 2, True) + (
        f" ({style.interval(low, high, lambda x: style.fixed(x, 2, True))})" if low < high else ""
    )


def sentence(found: Mapping[str, Any], style: Style) -> str:
    """Sum the events of a run up, of which there is one or more.

    ``found`` is what ``Events.summary`` returns (Any: the fields of its JSON object).
    """
    events = found["events"]
    largest = max(events, key=lambda e: math.inf if e["score"] is None else e["score"])
    head = counted(found["count"], "event") + (", the largest at " if found["count"] > 1 else " at ")
    when, like = _steps(largest["first_step"], largest["last_step"]), KINDS[largest["kind"]].partition(":")[0]
    left = [_departure(d, False) for d in largest["series"]] + [_departure(d, True) for d in largest["groups"]]
    first = min(left, key=lambda d: d.step)
    groups = [told(d, style) for d in left if d.of_group and d != first][:1]
    of_groups = f"; first of the groups: {groups[0]}" if groups else ""
    return f"{head}{when}: {like}; first: {told(first, style, since=largest['first_step'])}{of_groups}."


def _departure(plain: Mapping[str, Any], of_group: bool) -> Departure:
    from gradlog.analysis.events.band import Departure  # the command's help does without

    score, ratio = (math.nan if plain[name] is None else plain[name] for name in ("score", "ratio"))
    return Departure(plain["name"], of_group, plain["step"], score, ratio)
