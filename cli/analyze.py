"""``gradlog analyze``: one pass over a run, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from gradlog.cli import analyze_text, options, output_files, stderr, watch
from gradlog.cli.many_runs_text import archive


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option(
    "-o",
    "--output",
    "target",
    callback=output_files.destination,
    metavar="FILE",
    help="Also write the result: .json, .nc or .zarr.",
)
@click.option("--plot", callback=output_files.picture, metavar="FILE", help="Also draw the result: .png, .svg or .pdf.")
@options.force
@options.predictors("analyze")
@options.eps
@options.burn_in
@options.view
@click.option("--by-group", is_flag=True, help="Also each parameter group alone.")
@click.option("--window", type=click.IntRange(2), metavar="N", help="Also every window of N steps.")
@click.option("--stride", type=click.IntRange(1), metavar="N", help="Steps from one window to the next. Default: N.")
@click.option("--prefixes", type=click.IntRange(0), default=0, metavar="N", help="Also N growing prefixes of the run.")
@options.steps_per_epoch
@click.option("--light", is_flag=True, help="Windows and prefixes in less memory: their ranks within wider limits.")
@click.option(
    "--kernel",
    type=click.Choice(["auto", "numpy", "numba"]),
    default="auto",
    show_default=True,
    help="What adds up the columns; numba is the extra 'fast'.",
)
@options.computing
@watch.option
@stderr.verbosity
def analyze(
    runs: tuple[str, ...],
    as_json: bool,
    target: Path | None,
    plot: Path | None,
    force: bool,
    predictors: tuple[str, ...],
    eps: tuple[float, ...],
    burn_in: int,
    view: Any,
    by_group: bool,
    window: int | None,
    stride: int | None,
    prefixes: int,
    steps_per_epoch: int | None,
    light: bool,
    kernel: str,
    memory: str | None,
    scheduler: str | None,
    no_cache: bool,
    every: float | None,
    quiet: bool,
) -> None:
    """Measure predictability and rank of the gradients in RUN.

    Several runs, a folder of runs, a pattern in quotes or the URL of a bucket give a row a run; those that fail are
    listed and make the exit status 1.

    Kappa is the path length sum ||g_t - m_t||^2 over the energy sum ||g_t||^2, for predictions m_t made from
    earlier gradients only. It stands beside the kappa that the same gradients would have in random order.

    With --watch, RUN may still be recorded: a terminal shows the newest answer, a pipe gets all of them under a line
    with the time, --json gives a line each. Chunks whose summaries are kept are not read again. It ends when the run
    is closed.

    What was computed before is kept by the content of the runs in $GRADLOG_CACHE (default: the user's cache folder).
    """
    from gradlog.analysis.caching.cache import Cache
    from gradlog.analysis.comparison import analyze_each as many
    from gradlog.analysis.comparison.find import is_several

    for wanted in (target, plot):
        if wanted is not None:
            output_files.require_free(wanted, force)
    asked: dict[str, Any] = {"burn_in": burn_in, "by_group": by_group, "memory": memory, "scheduler": scheduler}
    chosen = {"predictors": predictors, "eps": eps, "window": window, "stride": stride, "prefixes": prefixes}
    chosen["light"] = light
    if steps_per_epoch is not None:
        asked["steps_per_epoch"] = steps_per_epoch
    asked |= {"kernel": kernel, **{name: value for name, value in chosen.items() if value}}
    options.check(predictors, memory, eps)
    if stride and not window:
        raise click.UsageError("--stride goes with --window: it is the distance from one window to the next")
    asked |= {"view": view, "cache": None if no_cache else Cache()}
    if is_several(runs):
        if every is not None:
            raise click.UsageError("--watch follows one run; gradlog report --watch follows several")
        if plot is not None:
            raise click.UsageError("--plot draws one run; gradlog compare --plot and gradlog report draw several")
        archive(runs, asked, as_json, target, force, quiet)
        return
    run = runs[0]
    answer = partial(_answer, run, as_json, target, plot)
    if every is not None:
        _follow(run, asked, every, answer, as_json, quiet)
        return
    with stderr.progress("analyze", quiet) as progress:
        result = many.analyze_one(run, progress=progress, **asked)
    click.echo("\n".join(answer(result, force)))


def _answer(
    run: str, as_json: bool, target: Path | None, plot: Path | None, result: Any, force: bool, indent: int | None = 1
) -> list[str]:
    """Write the files that were asked for; the lines to print."""
    from gradlog.analysis import to_json

    document = to_json(result)
    if target is not None:
        output_files.save(result, document, target, force)
        stderr.log.info("wrote %s", target)
    if plot is not None:
        output_files.draw(result, plot, force)
        stderr.log.info("drew %s", plot)
    return [json.dumps(document, indent=indent, allow_nan=False)] if as_json else analyze_text.report(run, document)


def _follow(
    run: str, asked: dict[str, Any], every: float, answer: Callable[..., list[str]], as_json: bool, quiet: bool
) -> None:
    """Answer for every look. Further passes, which read all rows again, wait for the last one."""
    from gradlog.analysis import analyze as measure

    view = asked.pop("view")

    def look_at(runs: Any, live: bool) -> Any:
        with stderr.progress("analyze", quiet) as progress:
            return measure(runs[0], progress=progress, passes=1 if live else 2, **asked)

    def show(look: Any) -> None:
        lines = answer(look.result, force=True, indent=None)  # the files are those of the look before
        if as_json:
            click.echo(lines[0])
        else:
            watch.block(lines, look, every)

    watch.follow([run], look_at, every, view, show)
