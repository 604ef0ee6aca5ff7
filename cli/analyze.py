"""``gradlog analyze``: one pass over a run, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from gradlog.cli import options, output_files, stderr, watch
from gradlog.cli.many_runs_text import archive


@click.command(
    epilog=options.examples(
        "gradlog analyze run.zarr",
        "gradlog analyze run.zarr --by-group --window 100",
        "gradlog analyze run.zarr --json > result.json",
        "gradlog analyze 'runs/*.zarr'",
    )
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option(
    "-o",
    "--output",
    "target",
    callback=output_files.destination,
    metavar="FILE",
    help="Also write the result to FILE: .json, .nc or .zarr.",
)
@click.option(
    "--plot", callback=output_files.picture, metavar="FILE", help="Also draw the result to FILE: .png, .svg or .pdf."
)
@options.force
@click.option("--full", is_flag=True, help="Print all tables: errors, spectrum, signal, path and bounds, too.")
@options.predictors("analyze")
@options.eps
@options.burn_in
@options.view
@click.option("--by-group", is_flag=True, help="Also measure each parameter group alone.")
@click.option("--window", type=click.IntRange(2), metavar="N", help="Also measure every window of N steps.")
@click.option(
    "--stride",
    type=click.IntRange(1),
    metavar="N",
    help="Steps from the start of one window to the next. Default: side by side.",
)
@click.option(
    "--prefixes", type=click.IntRange(0), default=0, metavar="N", help="Also measure N growing prefixes of the run."
)
@options.steps_per_epoch
@click.option(
    "--light", is_flag=True, help="Use less memory for windows and prefixes, at the price of wider rank intervals."
)
@click.option(
    "--kernel",
    type=click.Choice(["auto", "numpy", "numba"]),
    default="auto",
    show_default=True,
    help="Code that adds up the columns; numba needs the extra 'fast'.",
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
    full: bool,
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

    Given several runs (paths, a folder, a quoted pattern or a bucket URL), print one row per run. Runs that fail are
    listed, and the exit status is 1.

    Kappa is the squared error of predicting each gradient from earlier ones, over the gradients' own squared size:
    sum ||g_t - m_t||^2 / sum ||g_t||^2. Compare it with "shuffled", its value for the same gradients in random order.

    With --watch, follow a run that is being recorded until it is closed. A terminal shows the newest tables, a pipe
    gets all of them under a line with the time, and --json prints one line per result.

    Results are kept for later calls in $GRADLOG_CACHE (default: the user's cache folder).
    """
    from gradlog.analysis.caching.cache import Cache
    from gradlog.analysis.comparison.find import the_one
    from gradlog.analysis.results.cached import analyze_cached

    for wanted in (target, plot):
        if wanted is not None:
            output_files.require_free(wanted, force)
    options.check(predictors, memory, eps)
    if stride and not window:
        raise click.UsageError("--stride goes with --window: it is the distance from one window to the next")
    asked: dict[str, Any] = {
        "burn_in": burn_in, "by_group": by_group, "window": window, "stride": stride, "prefixes": prefixes,
        "steps_per_epoch": steps_per_epoch, "light": light, "kernel": kernel, "memory": memory, "scheduler": scheduler,
        "view": view, "cache": None if no_cache else Cache(),
    }  # fmt: skip
    asked |= {name: value for name, value in (("predictors", predictors), ("eps", eps)) if value}
    found = the_one(runs)
    if found is None:
        if every is not None:
            raise click.UsageError("--watch follows one run; gradlog report --watch follows several")
        if plot is not None:
            raise click.UsageError("--plot draws one run; gradlog compare --plot and gradlog report draw several")
        archive(runs, asked, as_json, target, force, quiet)
        return
    run = runs[0]
    answer = partial(_answer, run, as_json, full, target, plot)
    if every is not None:
        _follow(run, asked, every, answer, as_json, quiet)
        return
    with stderr.progress("analyze", quiet) as progress:
        result = analyze_cached(found, progress=progress, **asked)
    click.echo("\n".join(answer(result, force)))


def _answer(
    run: str, as_json: bool, full: bool, target: Path | None, plot: Path | None, result: Any, force: bool,
    indent: int | None = 1,
) -> list[str]:  # fmt: skip
    """Write the files that were asked for; the lines to print."""
    from gradlog.analysis import to_json
    from gradlog.cli import analyze_text

    document = to_json(result)
    svd = document["svd"]
    passes, kernel = svd["passes"], document["kernel"]
    stderr.log.info("spectrum by %s, passes over the rows: %s, column sums by %s", svd["method"], passes, kernel)
    if target is not None:
        output_files.save(result, document, target, force)
        stderr.log.info("wrote %s", target)
    if plot is not None:
        output_files.draw(result, plot, force)
        stderr.log.info("drew %s", plot)
    return (
        [json.dumps(document, indent=indent, allow_nan=False)] if as_json else analyze_text.report(run, document, full)
    )


def _follow(
    run: str, asked: dict[str, Any], every: float, answer: Callable[..., list[str]], as_json: bool, quiet: bool
) -> None:
    """Answer for every look. Further passes, which read all rows again, wait for the last one."""
    from gradlog.analysis.results.cached import analyze_cached

    view = asked.pop("view")

    def look_at(runs: Any, live: bool) -> Any:
        with stderr.progress("analyze", quiet) as progress:
            return analyze_cached(runs[0], progress=progress, passes=1 if live else 2, **asked)

    def show(look: Any) -> None:
        lines = answer(look.result, force=True, indent=None)  # the files are those of the look before
        if as_json:
            click.echo(lines[0])
        else:
            watch.block(lines, look, every)

    watch.follow([run], look_at, every, view, show)
