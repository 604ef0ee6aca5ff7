"""``gradlog analyze``: one pass over a run, and what it says; of several runs, tables with one row for each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from gradlog.analysis.common.text import TERMINAL, counted
from gradlog.analysis.common.types import SMALLEST_SAMPLE
from gradlog.analysis.measures.predictors.registry import usual, without_reference
from gradlog.cli import options, output_files, plain_text, stderr, watch

if TYPE_CHECKING:
    from gradlog.analysis.following.watch import Look
    from gradlog.analysis.reading.run import Run, View
    from gradlog.analysis.results.forms.json_document import Document
    from gradlog.analysis.results.forms.labelled_arrays import LabelledArrays
    from gradlog.analysis.results.options import Caching, Question


@dataclasses.dataclass(frozen=True)
class Answer:
    """How a result is given: as text or JSON, and in files beside it."""

    run: str
    as_json: bool
    full: bool
    groups: bool
    target: Path | None
    plot: Path | None

    def lines(self, result: LabelledArrays, force: bool, indent: int | None = 1) -> list[str]:
        """Write the files that were asked for; return the lines to print."""
        from gradlog.analysis import to_json
        from gradlog.cli import analyze_text

        document = to_json(result)
        svd, kernel = document["svd"], document["kernel"]
        stderr.log.info(
            "spectrum by %s, passes over the rows: %s, column sums by %s", svd["method"], svd["passes"], kernel
        )
        if self.target is not None or self.plot is not None:
            self._write(result, document, force)
        if self.as_json:
            return [json.dumps(document, indent=indent, allow_nan=False)]
        return analyze_text.report(self.run, document, self.full, self.groups)

    def _write(self, result: LabelledArrays, document: Document, force: bool) -> None:
        from gradlog.analysis.results.forms.dataset import to_dataset

        dataset = to_dataset(result)
        if self.target is not None:
            output_files.save(dataset, document, self.target, force)
            stderr.log.info("wrote %s", self.target)
        if self.plot is not None:
            output_files.draw(dataset, self.plot, force)
            stderr.log.info("drew %s", self.plot)


@options.command(
    "gradlog analyze run.zarr",
    "gradlog analyze run.zarr --by-group --window 100",
    "gradlog analyze run.zarr --json > result.json",
    "gradlog analyze 'runs/*.zarr'",
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@options.predictors("analyze")
@options.eps
@options.measured("--by-group/--no-by-group", "groups", default=None,
                  help="Show kappa of each parameter group, as --full does; or measure none.")  # fmt: skip
@options.measured("--window", type=click.IntRange(2), metavar="N", help="Also measure every window of N steps.")
@options.measured("--stride", type=click.IntRange(1), metavar="N",
                  help="Steps from the start of one window to the next. Default: side by side.")  # fmt: skip
@options.measured("--growing-windows", "prefixes", former=["--prefixes"], type=click.IntRange(0), default=0,
                  metavar="N", help="Also measure N windows that grow from the start of the run.")  # fmt: skip
@options.measured("--directions", is_flag=True,
                  help="Also measure which way training goes: turns, autocorrelation, the weights' path.")  # fmt: skip
@options.steps_per_epoch
@options.burn_in
@options.selected("--sample", type=click.IntRange(SMALLEST_SAMPLE), metavar="N",
                  help="Read about N steps alone, in stretches over the run, and tell the error.")  # fmt: skip
@options.view
@options.scalars
@options.output("--full", is_flag=True, help="Print all tables: errors, spectrum, signal, path and bounds, too.")
@options.json
@options.output("-o", "--output", "target", callback=output_files.destination, metavar="FILE",
                help="Also write the result to FILE: .json, .nc or .zarr.")  # fmt: skip
@options.output("--plot", callback=output_files.picture, metavar="FILE",
                help="Also draw the result to FILE: .png, .svg or .pdf.")  # fmt: skip
@options.force
@watch.option
@options.computed("--low-memory-windows", "light", former=["--light"], is_flag=True,
                  help="Use less memory for windows, at the price of wider rank intervals.")  # fmt: skip
@options.computed("--kernel", type=click.Choice(["auto", "numpy", "numba"]), default="auto", hidden=True)
@options.computing
@stderr.verbosity
def analyze(
    runs: tuple[str, ...], as_json: bool, full: bool, target: Path | None, plot: Path | None, force: bool,
    every: float | None, quiet: bool, view: View, scalars: dict[str, str], cache: Caching, groups: bool | None,
    **asked: Unpack[Question],
) -> None:  # fmt: skip
    """Measure predictability and rank of the gradients in RUN.

    Given several runs (paths, a folder, a quoted pattern or a bucket URL), print one row per run. Runs that fail are
    listed, and the exit status is 1.

    Kappa is the squared error of predicting each gradient from earlier ones, over the gradients' own squared size:
    sum ||g_t - m_t||^2 / sum ||g_t||^2. Compare it with "shuffled", its value for the same gradients in random order.

    With --watch, follow a run that is being recorded until it is closed. A terminal shows as much of the newest
    result as fits, a pipe gets all of them under a line with the time, and --json prints one line per result.

    Results are kept for later calls in $GRADLOG_CACHE (default: the user's cache folder).
    """
    from gradlog.analysis.comparison.find import the_one
    from gradlog.analysis.reading.run import open_run
    from gradlog.analysis.results.analyze import analyze_cached

    for wanted in (target, plot):
        if wanted is not None:
            output_files.require_free(wanted, force)
    if asked["stride"] and not asked["window"]:
        raise click.UsageError("--stride goes with --window: it is the distance from one window to the next")
    if asked["sample"] and (asked["window"] or asked["directions"]):
        raise click.UsageError("--sample goes without --window and --directions: its stretches lie apart")
    asked["by_group"] = groups is not False
    found = the_one(runs)
    if scalars and (found is None or every is not None):
        raise click.UsageError("--scalars belongs to one run, which is not followed")
    if found is None:
        if every is not None:
            raise click.UsageError("--watch follows one run; gradlog report --watch follows several")
        if plot is not None:
            raise click.UsageError("--plot draws one run; gradlog compare --plot and gradlog report draw several")
        archive(runs, view, cache, as_json, target, force, quiet, **asked)
        return
    answer = Answer(runs[0], as_json, full, bool(groups), target, plot)
    if every is not None:
        _follow(answer, view, cache, every, quiet, **asked)
        return
    with stderr.progress("analyze", quiet) as asked["progress"]:
        run = open_run(runs[0], view, scalars) if scalars else found
        result = analyze_cached(run, view, cache, **asked)
    click.echo("\n".join(answer.lines(result, force)))


def _follow(answer: Answer, view: View, cache: Caching, every: float, quiet: bool, **asked: Unpack[Question]) -> None:
    """Answer for every look. Further passes, which read all rows again, wait for the last one."""
    from gradlog.analysis.results.analyze import analyze_cached

    def look_at(runs: list[Run], live: bool) -> LabelledArrays:
        with stderr.progress("analyze", quiet) as asked["progress"]:
            asked["passes"] = 1 if live else 2
            return analyze_cached(runs[0], cache=cache, **asked)

    def show(result: LabelledArrays, look: Look[LabelledArrays]) -> None:
        lines = answer.lines(result, force=True, indent=None)  # the files are those of the look before
        if answer.as_json:
            click.echo(lines[0])
        else:
            watch.block(lines, look, every)

    watch.follow([answer.run], look_at, every, view, show)


def archive(
    runs: tuple[str, ...], view: View, cache: Caching, as_json: bool, target: Path | None, force: bool, quiet: bool,
    **asked: Unpack[Question],
) -> None:  # fmt: skip
    """Analyze all runs, print and write the result; exit status 1 if any failed."""
    from gradlog.analysis import analyze_each

    with stderr.progress("analyze", quiet, "runs") as asked["progress"]:
        found = analyze_each(runs, view=view, cache=cache, **asked)
    document = found.document()
    if target is not None:
        output_files.save(found.dataset(), document, target, force)
        stderr.log.info("wrote %s", target)
    left_out = set() if asked.get("predictors") else {*usual("analyze")} - {*usual("report")}  # for 80 columns
    lines = [json.dumps(document, indent=1, allow_nan=False)] if as_json else tables(document, left_out)
    click.echo("\n".join(lines))
    stderr.tell_failed(found.failed)


def tables(document: Document, left_out: Collection[str] = ()) -> list[str]:
    """Kappa as ``gradlog compare`` shows it, and rank: of each run."""
    from gradlog.analysis.comparison.side_by_side import labels
    from gradlog.analysis.comparison.tables import CELLS, kappa_rows

    runs = document["runs"]
    failed = f", {len(document['failed'])} failed" if document["failed"] else ""
    head = plain_text.heading(f"{counted(len(runs), 'run')}{failed}")
    if not runs:
        return [head]
    named = dict(zip(labels([r["run"]["path"] for r in runs]), runs, strict=True))
    predictors, eps = [p for p in without_reference(runs[0]["kappa"]) if p not in left_out], list(runs[0]["rank"])
    kappas = [row for name, r in named.items() for row in kappa_rows([name], [r["kappa"][p] for p in predictors])]
    ranks = [
        [name, f"{r['run']['steps']:,}", f"{len(r['run']['groups'])} x {r['run']['k']}",
         *(TERMINAL.rank(r["rank"][e]["low"], r["rank"][e]["high"]) for e in eps), str(len(r["warnings"]))]
        for name, r in named.items()
    ]  # fmt: skip
    return [
        head,
        "",
        plain_text.heading("kappa"),
        *plain_text.kappas(["run", *predictors], kappas, CELLS, 12),
        "",
        plain_text.heading("logged rank of the changes between steps, at eps"),
        *plain_text.table(["run", "steps", "n", *eps, "warnings"], ranks),
    ]
