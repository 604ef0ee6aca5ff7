"""``gradlog report``: one page about a run or several, to open anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gradlog.cli import console, output
from gradlog.cli.analyze import check_options


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("-o", "--output", "target", default="report.html", show_default=True, metavar="FILE",
              callback=output.page, help="Where the page goes: .html.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--title", default="Gradient report", show_default=True, help="Heading of the page.")
@click.option("--predictor", "predictors", multiple=True, metavar="NAME",
              help="zero, last, ema(B), trend, ar(P) or best-ema; may be repeated. "
              "Default: the usual ones without best-ema.")  # fmt: skip
@click.option("--eps", multiple=True, type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of energy that the rank leaves out; may be repeated. Default: 0.1 0.05 0.01.")  # fmt: skip
@click.option("--burn-in", type=click.IntRange(0), default=0, metavar="N", help="Leave the first N rows out.")
@click.option("--view", type=click.Choice(["latest", "all"]), default="latest", show_default=True,
              help="After a rewind: the newest row of each step, or all rows.")  # fmt: skip
@click.option("--memory", metavar="SIZE", help="Refuse to start if the predicted peak exceeds SIZE, such as 2G.")
@click.option("--scheduler", metavar="ADDR", help="Address of a running dask scheduler. Default: threads.")
@console.verbosity
def report(
    runs: tuple[str, ...], target: Path, force: bool, title: str, predictors: tuple[str, ...], eps: tuple[float, ...],
    burn_in: int, view: Any, memory: str | None, scheduler: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Write one HTML page about RUNS, side by side.

    The page needs no network and no other file: figures, tables, warnings and provenance, in light and dark, for
    screens and paper.
    """
    from gradlog.analysis import open_run
    from gradlog.analysis.report import html_report

    output.require_free(target, force)
    check_options(predictors, memory)
    options: dict[str, Any] = {"burn_in": burn_in, "memory": memory, "scheduler": scheduler}
    options |= {name: value for name, value in (("predictors", predictors), ("eps", eps)) if value}
    opened = [open_run(run, view) for run in runs]
    with console.progress("report", quiet) as progress:
        page = html_report(opened, title, progress=progress, **options)
    output.write_text(page, target, force)
    click.echo(str(target))
