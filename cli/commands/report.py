"""``gradlog report``: one page about a run or several, to open anywhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from gradlog.cli import options, output_files, stderr, watch

if TYPE_CHECKING:
    from gradlog.analysis.following.watch import Look
    from gradlog.analysis.reading.run import Run, View
    from gradlog.analysis.results.options import Caching, Question

    class Asked(Question, total=False):
        """What is asked of the analysis, and where its results are kept."""

        cache: Caching


@options.command(
    "gradlog report run.zarr -o report.html",
    "gradlog report runs --group-by optimizer",
    "gradlog report run.zarr -o live.html --watch",
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@options.output("-o", "--output", "target", default="report.html", metavar="FILE", callback=output_files.page,
                help="HTML file to write.")  # fmt: skip
@options.force
@options.output("--title", default="Gradient report", help="Heading of the page.")
@watch.option
@options.predictors("report")
@options.eps
@options.burn_in
@options.steps_per_epoch
@options.view
@options.steps
@options.scalars
@options.grouping
@options.computing
@stderr.verbosity
def report(
    runs: tuple[str, ...], target: Path, force: bool, title: str, group_by: tuple[str, ...], replicate: str,
    every: float | None, quiet: bool, view: View, steps: tuple[int, int] | None, scalars: dict[str, str],
    **asked: Unpack[Asked],
) -> None:  # fmt: skip
    """Write one HTML page about every RUN, side by side.

    RUN is a run, a folder of runs, a quoted pattern or a bucket URL. Runs that fail are listed, and the exit
    status is 1. More than 12 runs share their figures. Runs whose notes differ only in the seed form one configuration.

    The page holds figures, tables, warnings and provenance. It needs no network and no other file, and is made for
    light and dark screens and for paper. With --watch it is replaced whenever a run has grown, until all runs are
    closed; a browser that shows it loads it again.
    """
    from gradlog.analysis.comparison.find import find, the_one
    from gradlog.analysis.reading.run import Run, open_run
    from gradlog.analysis.report.write import archive_report, html_report

    output_files.require_free(target, force)

    def page(opened: list[Run], live: bool = False) -> str:
        with stderr.progress("report", quiet) as asked["progress"]:
            return html_report(
                opened, title, every if live else None, group_by=group_by, replicate=replicate, **asked
            )  # fmt: skip

    def show(text: str, look: Look[str]) -> None:
        output_files.write_text(text, target, force=True)  # the page of the look before
        then = "" if look.live else ", closed"
        click.echo(f"{target}  {time.strftime('%Y-%m-%d %H:%M:%S')}  {look.steps:,} steps{then}")

    one = the_one(runs)
    if scalars and (one is None or every is not None):
        raise click.UsageError("--scalars belongs to one run, which is not followed")
    if steps and every is not None:
        raise click.UsageError("--steps belongs to runs that are not followed")
    if every is not None:
        found, lost = (list(runs), []) if one else find(runs)
        watch.follow([*found, *(f.path for f in lost)], page, every, view, show)
    elif one is None:
        with stderr.progress("report", quiet) as asked["progress"]:
            text, failed = archive_report(
                runs, title, view, steps=steps, group_by=group_by, replicate=replicate, **asked
            )
        output_files.write_text(text, target, force)
        click.echo(str(target))
        stderr.tell_failed(failed)
    else:
        run = open_run(runs[0], view, scalars, steps) if scalars else Run(one, view, steps)
        output_files.write_text(page([run]), target, force)
        click.echo(str(target))
