"""Options under headings, and those that several commands share, each described once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from gradlog.analysis.common.types import EPS
from gradlog.analysis.measures.predictors import parse
from gradlog.analysis.measures.predictors.registry import Result, forms, usual
from gradlog.format.sizes import parse_size

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

OTHER = "Other options"


class Command(click.Command):
    """A command whose help lists options under their headings."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """See click."""
        found: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)):
                found.setdefault(getattr(parameter, "heading", OTHER), []).append(record)
        for heading in sorted(found, key=lambda heading: heading == OTHER):
            with formatter.section(heading):
                formatter.write_dl(found[heading])


class Option(click.Option):
    """An option with the heading it stands under, and names that it had, which are taken and not shown."""

    def __init__(
        self, names: Sequence[str], heading: str = OTHER, former: Sequence[str] = (),
        **more: Any,  # what click.Option takes, of as many types
    ) -> None:  # fmt: skip
        super().__init__([*names, *former], show_default=True, **more)
        self.heading, self.former = heading, former

    def get_help_record(self, context: click.Context) -> tuple[str, str] | None:
        """See click."""
        record = super().get_help_record(context)
        if record is None:
            return None
        names, text = record
        for name in self.former:
            names = names.replace(f", {name}", "")
        return names, text


def examples(*lines: str) -> str:
    """Last paragraph of a help text: one command per line, which click leaves as they are."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


def command(*lines: str, context_settings: Mapping[str, object] | None = None) -> Callable[..., Command]:
    """``click.command``, with examples at the end of the help."""
    return click.command(cls=Command, epilog=examples(*lines), context_settings=context_settings)


def under(heading: str) -> Callable[..., Decorator]:
    """Make the ``click.option`` of a heading."""
    return functools.partial(click.option, cls=Option, heading=heading)


selected, measured, computed = under("What is read"), under("What is measured"), under("How it is computed")
output, grouped = under("Output"), under("Runs that form one configuration")


def _readable(read: Callable[[Any], object]) -> Callable[..., Any]:  # text, or several: what the option takes
    """Make a check that leaves a value as it is; a wrong one is wrong usage, found before the run is opened."""

    def check(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if not value:
            return None
        try:
            read(value)
        except (ValueError, TypeError) as error:
            raise click.BadParameter(str(error)) from error
        return value

    return check


def _once(values: tuple[float, ...]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"each number once, got {', '.join(map(str, values))}")


json = output("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
force = output("--force", is_flag=True, help="Replace FILE if it exists.")
burn_in = selected("--burn-in", type=click.IntRange(0), default=0, metavar="N",
                   help="Leave the first N rows out of all sums.")  # fmt: skip

eps = measured(
    "--eps", multiple=True, type=click.FloatRange(0, 1, min_open=True, max_open=True), default=EPS, metavar="SHARE",
    callback=_readable(_once), help="Share of energy that a rank may leave out; may be repeated.",
)  # fmt: skip

steps_per_epoch = measured(
    "--steps-per-epoch", type=click.IntRange(0), metavar="N",
    help="Number of steps per epoch; 0 if every batch is drawn anew. Default: what the run says.",
)  # fmt: skip


def predictors(shown_in: Result) -> Decorator:
    """``--predictor``, which commands offer with different defaults."""
    return measured(
        "--predictor", "predictors", multiple=True, metavar="NAME", callback=_readable(parse),
        help=f"{forms()}; may be repeated. Default: {', '.join(usual(shown_in))}.",
    )  # fmt: skip


def view(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--keep-abandoned``, and ``--view`` as it once was; both give ``view``."""

    @selected("--keep-abandoned", is_flag=True, help="After a rewind, also use the rows that were recorded again.")
    @selected("--view", type=click.Choice(["latest", "all"]), default="latest", hidden=True)
    @functools.wraps(command)
    def with_view(*, keep_abandoned: bool, view: str, **given: object) -> None:
        command(view="all" if keep_abandoned else view, **given)

    return with_view


def _two_steps(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    first, colon, last = value.partition(":")
    ends = [first.strip() or "0", last.strip() or str(2**62)]
    if not colon or not all(end.isdecimal() and len(end) < 20 for end in ends) or int(ends[0]) > int(ends[1]):
        raise click.BadParameter(f"expected FIRST:LAST, such as 100:250 or 100:, got {value!r}")
    return int(ends[0]), int(ends[1])


steps = selected("--steps", metavar="FIRST:LAST", callback=_two_steps,
                 help="Read these steps alone, as if no other had been recorded.")  # fmt: skip


def scalars(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--scalars``, which gives a mapping of names to files, or None."""

    @selected("--scalars", multiple=True, metavar="[NAME=]FILE[:TAG]",
              help="Take NAME (loss), which the run did not log, from a tracker's file; may be repeated.")  # fmt: skip
    @functools.wraps(command)
    def with_scalars(*, scalars: tuple[str, ...], **given: object) -> None:
        from gradlog.analysis.reading.joined_scalars import named

        command(scalars=dict(map(named, scalars)), **given)

    return with_scalars


def together(*decorators: Decorator) -> Decorator:
    """Make one decorator of several, the first one on top."""
    return lambda command: functools.reduce(lambda decorated, add: add(decorated), reversed(decorators), command)


computing = together(
    computed("--memory", metavar="SIZE", callback=_readable(parse_size),
             help="Refuse to start if more memory than SIZE (such as 2G) will be needed."),
    computed("--scheduler", metavar="ADDR", help="Address of a dask scheduler to compute on. Default: threads."),
    computed("--no-cache", "cache", is_flag=True, callback=lambda context, parameter, value: not value,
             help="Compute everything again, and keep nothing for later calls."),
)  # fmt: skip
"""Where and with what an analysis is computed."""

grouping = together(
    grouped("--group-by", multiple=True, metavar="NOTE",
            help="Note whose value names the configuration; may be repeated. Default: all but --replicate."),
    grouped("--replicate", default="seed", metavar="NOTE",
            help="Note in which the runs of one configuration differ."),
)  # fmt: skip
"""Which runs are one configuration."""
