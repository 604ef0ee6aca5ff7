"""``gradlog report``: one page about a run or several, to open anywhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from gradlog.cli import console, output, watch
from gradlog.cli.analyze import check_options


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("-o", "--output", "target", default="report.html", show_default=True, metavar="FILE",
              callback=output.page, help="Where the page goes: .html.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--title", default="Gradient report", show_default=True, help="Heading of the page.")
@click.option("--predictor", "predictors", multiple=True, metavar="NAME",
              help="zero, last, ema(B), trend, ar(P) or best-ema; may be repeated. "
              "Default: the usual seven.")  # fmt: skip
@click.option("--eps", multiple=True, type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of energy that the rank leaves out; may be repeated. Default: 0.1 0.05 0.01.")  # fmt: skip
@click.option("--burn-in", type=click.IntRange(0), default=0, metavar="N", help="Leave the first N rows out.")
@click.option("--view", type=click.Choice(["latest", "all"]), default="latest", show_default=True,
              help="After a rewind: the newest row of each step, or all rows.")  # fmt: skip
@click.option("--memory", metavar="SIZE", help="Refuse to start if the predicted peak exceeds SIZE, such as 2G.")
@click.option("--scheduler", metavar="ADDR", help="Address of a running dask scheduler. Default: threads.")
@click.option("--no-cache", is_flag=True, help="Neither use nor keep what earlier calls computed.")
@watch.option
@console.verbosity
def report(
    runs: tuple[str, ...], target: Path, force: bool, title: str, predictors: tuple[str, ...], eps: tuple[float, ...],
    burn_in: int, view: Any, memory: str | None, scheduler: str | None, no_cache: bool, every: float | None,
    quiet: bool,
) -> None:  # fmt: skip
    """Write one HTML page about RUNS, side by side.

    RUNS are runs, folders of runs, patterns in quotes or the URL of a bucket. Those that fail are listed and make the
    exit status 1; more than 12 share their figures.

    The page needs no network and no other file: figures, tables, warnings and provenance, in light and dark, for
    screens and paper. With --watch, the page is replaced whenever a run has grown, and a browser that shows it loads it
    again, until all runs are closed.
    """
    from gradlog.analysis import archive as many
    from gradlog.analysis import open_run
    from gradlog.analysis.cache import Cache
    from gradlog.analysis.report import archive_report, html_report

    output.require_free(target, force)
    check_options(predictors, memory)
    options: dict[str, Any] = {"burn_in": burn_in, "memory": memory, "scheduler": scheduler}
    options |= {name: value for name, value in (("predictors", predictors), ("eps", eps)) if value}
    options |= {"title": title, "cache": None if no_cache else Cache()}

    def page(opened: Any, live: bool = False) -> str:
        with console.progress("report", quiet) as progress:
            return html_report(opened, again=every if live else None, progress=progress, **options)

    if every is not None:
        found, lost = many.find(runs) if many.is_several(runs) else (list(runs), [])
        _follow([*found, *(f.path for f in lost)], page, every, view, target)
    elif many.is_several(runs):
        with console.progress("report", quiet) as progress:
            text, failed = archive_report(runs, view=view, progress=progress, **options)
        output.write_text(text, target, force)
        click.echo(str(target))
        console.tell_failed(failed)
    else:
        output.write_text(page([open_run(runs[0], view)]), target, force)
        click.echo(str(target))


def _follow(runs: list[str], page: Any, every: float, view: Any, target: Path) -> None:
    def show(look: Any) -> None:
        output.write_text(look.result, target, force=True)  # the page of the look before
        then = "" if look.live else ", closed"
        click.echo(f"{target}  {time.strftime('%Y-%m-%d %H:%M:%S')}  {look.steps:,} steps{then}")

    watch.follow(runs, page, every, view, show)
