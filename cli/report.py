"""``gradlog report``: one page about a run or several, to open anywhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from gradlog.cli import options, output_files, stderr, watch


@click.command(
    epilog=options.examples(
        "gradlog report run.zarr -o report.html",
        "gradlog report runs --group-by optimizer",
        "gradlog report run.zarr -o live.html --watch",
    )
)
@click.argument("runs", nargs=-1, required=True)
@click.option("-o", "--output", "target", default="report.html", show_default=True, metavar="FILE",
              callback=output_files.page, help="HTML file to write.")  # fmt: skip
@options.force
@click.option("--title", default="Gradient report", show_default=True, help="Heading of the page.")
@options.predictors("report")
@options.eps
@options.burn_in
@options.steps_per_epoch
@options.view
@options.grouping
@options.computing
@watch.option
@stderr.verbosity
def report(
    runs: tuple[str, ...], target: Path, force: bool, title: str, predictors: tuple[str, ...], eps: tuple[float, ...],
    burn_in: int, view: Any, steps_per_epoch: int | None, group_by: tuple[str, ...], replicate: str,
    memory: str | None, scheduler: str | None, no_cache: bool, every: float | None,
    quiet: bool,
) -> None:  # fmt: skip
    """Write one HTML page about RUNS, side by side.

    RUNS are runs, folders of runs, quoted patterns or bucket URLs. Runs that fail are listed, and the exit status is 1.
    More than 12 runs share their figures. Runs whose notes differ only in the seed form one configuration.

    The page holds figures, tables, warnings and provenance. It needs no network and no other file, and is made for
    light and dark screens and for paper. With --watch it is replaced whenever a run has grown, until all runs are
    closed; a browser that shows it loads it again.
    """
    from gradlog.analysis.caching.cache import Cache
    from gradlog.analysis.comparison.find import find, the_one
    from gradlog.analysis.reading.run import Run
    from gradlog.analysis.report.write import archive_report, html_report

    output_files.require_free(target, force)
    options.check(predictors, memory, eps)
    asked: dict[str, Any] = {"burn_in": burn_in, "memory": memory, "scheduler": scheduler}
    asked |= {name: value for name, value in (("predictors", predictors), ("eps", eps)) if value}
    asked["steps_per_epoch"] = steps_per_epoch
    asked |= {"title": title, "cache": None if no_cache else Cache(), "group_by": group_by, "replicate": replicate}

    def page(opened: Any, live: bool = False) -> str:
        with stderr.progress("report", quiet) as progress:
            return html_report(opened, again=every if live else None, progress=progress, **asked)

    one = the_one(runs)
    if every is not None:
        found, lost = (list(runs), []) if one else find(runs)
        _follow([*found, *(f.path for f in lost)], page, every, view, target)
    elif one is None:
        with stderr.progress("report", quiet) as progress:
            text, failed = archive_report(runs, view=view, progress=progress, **asked)
        output_files.write_text(text, target, force)
        click.echo(str(target))
        stderr.tell_failed(failed)
    else:
        output_files.write_text(page([Run(one, view)]), target, force)
        click.echo(str(target))


def _follow(runs: list[str], page: Any, every: float, view: Any, target: Path) -> None:
    def show(look: Any) -> None:
        output_files.write_text(look.result, target, force=True)  # the page of the look before
        then = "" if look.live else ", closed"
        click.echo(f"{target}  {time.strftime('%Y-%m-%d %H:%M:%S')}  {look.steps:,} steps{then}")

    watch.follow(runs, page, every, view, show)
