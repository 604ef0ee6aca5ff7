"""Options that several commands share, each described once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from gradlog.analysis.measures.predictors import parse
from gradlog.analysis.measures.predictors.registry import Result, forms, usual

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

view = click.option(
    "--view", type=click.Choice(["latest", "all"]), default="latest", show_default=True,
    help="After a rewind, use the newest row of each step, or all rows.",
)  # fmt: skip

eps = click.option(
    "--eps", multiple=True, type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of energy that a rank may leave out; may be repeated. Default: 0.1 0.05 0.01.",
)  # fmt: skip

burn_in = click.option(
    "--burn-in", type=click.IntRange(0), default=0, metavar="N", help="Leave the first N rows out of all sums."
)

steps_per_epoch = click.option(
    "--steps-per-epoch", type=click.IntRange(0), metavar="N",
    help="Number of steps per epoch; 0 if every batch is drawn anew. Default: what the run says.",
)  # fmt: skip

force = click.option("--force", is_flag=True, help="Replace FILE if it exists.")


def predictors(shown_in: Result) -> Decorator:
    """``--predictor``, which commands offer with different defaults."""
    return click.option(
        "--predictor", "predictors", multiple=True, metavar="NAME",
        help=f"{forms()}; may be repeated. Default: {', '.join(usual(shown_in))}.",
    )  # fmt: skip


def computing(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--memory``, ``--scheduler`` and ``--no-cache``: where and with what an analysis is computed."""
    for option in (
        click.option("--no-cache", is_flag=True, help="Compute everything again, and keep nothing for later calls."),
        click.option(
            "--scheduler", metavar="ADDR", help="Address of a dask scheduler to compute on. Default: threads."
        ),
        click.option(
            "--memory", metavar="SIZE", help="Refuse to start if more memory than SIZE (such as 2G) will be needed."
        ),
    ):
        command = option(command)
    return command


def grouping(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--group-by`` and ``--replicate``: which runs are one configuration."""
    for option in (
        click.option("--replicate", default="seed", show_default=True, metavar="NOTE",
                     help="Note in which the runs of one configuration differ."),
        click.option("--group-by", multiple=True, metavar="NOTE",
                     help="Note whose value names the configuration; may be repeated. Default: all but --replicate."),
    ):  # fmt: skip
        command = option(command)
    return command


def examples(*lines: str) -> str:
    """Last paragraph of a help text: one command per line, which click leaves as they are."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


def check(predictors: tuple[str, ...] = (), memory: str | None = None, eps: tuple[float, ...] = ()) -> None:
    """Wrong values of options are wrong usage, found before the run is opened."""
    from gradlog.format.sizes import parse_size

    if len(set(eps)) < len(eps):
        raise click.BadParameter(f"each number once, got {', '.join(map(str, eps))}", param_hint="--eps")
    checks: list[tuple[str, Callable[[], Any]]] = []
    if predictors:
        checks.append(("--predictor", lambda: parse(predictors)))
    if memory is not None:
        checks.append(("--memory", lambda: parse_size(memory)))
    for option, check in checks:
        try:
            check()
        except (ValueError, TypeError) as error:
            raise click.BadParameter(str(error), param_hint=option) from error
