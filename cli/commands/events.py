"""``gradlog events``: the steps at which a run left its usual course, and what is known of each."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import click

from gradlog.analysis.common.text import TERMINAL, counted, enumerate_some
from gradlog.analysis.events import words
from gradlog.cli import options, plain_text
from gradlog.cli.stderr import verbosity

if TYPE_CHECKING:
    from gradlog.analysis.events.events import Event, Events
    from gradlog.analysis.reading.run import View

NONE = (
    "No series rose far above its usual range. A large step is no event where the steps before it vary as much: "
    "gradlog info RUN --step N shows one."
)

ABOUT = (
    "Times: the value over the running median of the {window} steps before. Deviations: its distance from there in "
    "usual ones. What an event is like is a description, not a proof of its cause."
)


@options.command(
    "gradlog events run.zarr", "gradlog events run.zarr --json", "gradlog events run.zarr --scalars logs/run:train/loss"
)  # fmt: skip
@click.argument("run")
@options.view
@options.scalars
@options.measured("--window", type=click.IntRange(20), default=64, metavar="N",
                  help="Number of steps that a band is made of.")  # fmt: skip
@options.json
@verbosity
def events(run: str, view: View, scalars: dict[str, str], window: int, as_json: bool, quiet: bool) -> None:
    """List the steps at which RUN left its usual course: spikes, jumps, NaN.

    Watched are the loss, the norm of the gradient and of its change, the norm of each group, before clipping, and the
    learning rate. Each event tells what left its running band first, which groups hold the jump, and whether the
    gradient pointed elsewhere.
    """
    from gradlog.analysis import find_events, open_run

    opened = open_run(run, view, scalars)
    found = find_events(opened, window)
    lines = text(found) + [line for said in opened.scalar_sources.values() for line in plain_text.note(said)]
    click.echo("\n".join([json.dumps(found.to_dict(), indent=1, allow_nan=False)] if as_json else lines))


def text(found: Events) -> list[str]:
    """Lines for the terminal."""
    first = (
        f"the first {found.unwatched} of {found.steps:,} steps have no band yet"
        if found.unwatched < found.steps
        else "too few for a band"
    )
    watched = f"watched: {', '.join(words.named(x) for x in found.watched)}, norms of groups; {first}"
    title = f"{plain_text.printable(found.path)}: {counted(found.count, 'event')} in {counted(found.steps, 'step')}"
    lines = [plain_text.heading(title), *plain_text.wrap(watched)]
    for event in found.found:
        lines += [
            "",
            plain_text.heading(f"{words.steps(event)}: {words.KINDS[event.kind]}"),
            *plain_text.facts(_facts(event, found).items()),
        ]
    if found.count > len(found.found):
        lines += ["", *plain_text.note(f"the {len(found.found)} largest are shown")]
    if not found.found and found.steps > found.unwatched:
        lines += plain_text.note(NONE)
    return [*lines, "", *plain_text.wrap(ABOUT.format(window=found.window))] if found.found else lines


def _facts(event: Event, found: Events) -> dict[str, str]:
    way, first = event.direction, words.lead(event)
    like = "" if way.like is None else f"{words.steps(found.found[way.like])}, cosine {_cosine(way.cosine)}"
    with_mean = f"{_cosine(way.previous)} with the gradient before, {_cosine(way.mean)} with the mean of those before"
    groups = enumerate_some([words.told(d, TERMINAL) for d in event.groups], 4)
    return {
        "out of its band": "; ".join(words.told(d, TERMINAL) for d in event.series) or "only norms of groups",
        "skipped": f"{counted(event.skipped, 'step')} by the optimizer" if event.skipped else "",
        "groups": groups + (f"; {first}" if first else ""),
        "share of the jump": enumerate_some(words.shares(event, TERMINAL), 4),
        "learning rate": _rate(event.learning_rate),
        "cosine": "" if math.isnan(way.mean[0]) else with_mean,
        "most like" if way.cosine[1] > 0 else "most opposite to": like
        if way.cosine[1] > 0 or way.cosine[2] < 0
        else "",
    }


def _rate(rise: float) -> str:
    if math.isnan(rise):
        return "not logged"
    return f"{TERMINAL.number(rise, 2)} times that of the step before" if rise > 1.01 else "did not rise"


def _cosine(ends: tuple[float, float, float]) -> str:
    return words.cosine(ends, TERMINAL)
