"""``gradlog compare``: several runs in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradlog.cli import options, output_files, plain_text, stderr

if TYPE_CHECKING:
    from gradlog.analysis.comparison.compare import Comparison


@options.command(
    "gradlog compare adamw.zarr sgd.zarr",
    "gradlog compare runs --group-by optimizer",
    "gradlog compare runs --format latex",
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@options.predictors("compare")
@options.measured("--window", type=click.IntRange(2), metavar="N", help="Also kappa by windows of N rows.")
@options.burn_in
@options.steps_per_epoch
@options.grouping
@options.output("--format", "form", type=click.Choice(["table", "json", "csv", "markdown", "latex"]), default="table",
                help="How to print.")  # fmt: skip
@options.output("--reference", metavar="FILE", help="JSON file of published figures to show below.")
@options.output("--plot", callback=output_files.picture, metavar="FILE",
                help="Also draw kappa by run, its curves by window, and the cosine: .png, .svg or .pdf.")  # fmt: skip
@options.force
@stderr.verbosity
def compare(
    runs: tuple[str, ...], form: str, predictors: tuple[str, ...] | None, window: int | None, reference: str | None,
    steps_per_epoch: int | None, group_by: tuple[str, ...], replicate: str, burn_in: int, plot: Path | None,
    force: bool, quiet: bool,
) -> None:  # fmt: skip
    """Show kappa of every RUN side by side, as the paper's table does.

    RUN is a run, a folder of runs, a quoted pattern or a bucket URL. Runs that fail are listed, and the exit
    status is 1.

    Given two runs with the same sketch, it also says at which step their gradients part.

    Runs whose notes differ only in the seed form one configuration. The table then shows the mean and the spread over
    its runs, and the difference between any two configurations. With --group-by, --format csv prints configurations
    instead of runs.
    """
    from gradlog.analysis.comparison import tables
    from gradlog.analysis.comparison.compare import compare as of_runs
    from gradlog.analysis.comparison.compare import compare_archive, to_document
    from gradlog.analysis.comparison.find import is_several

    if plot is not None:
        output_files.require_free(plot, force)
    measure = compare_archive if is_several(runs) else of_runs
    with stderr.progress("compare", quiet) as progress:
        found = measure(
            runs, predictors, window, reference, group_by=group_by, replicate=replicate,
            burn_in=burn_in, steps_per_epoch=steps_per_epoch, progress=progress,
        )  # fmt: skip
    if plot is not None:
        output_files.draw(found, plot, force)
    if form == "json":
        click.echo(json.dumps(to_document(found), indent=1, allow_nan=False))
    elif form == "table":
        click.echo("\n".join(_lines(found)))
    elif form == "csv" and group_by and found.replicates is not None:
        click.echo(tables.configurations_csv(found.replicates), nl=False)
    else:
        click.echo(tables.WRITERS[form](found), nl=False)
    stderr.tell_failed(found.failed)


def _lines(found: Comparison) -> list[str]:
    from gradlog.analysis.comparison import tables

    return [
        *plain_text.kappas(*tables.grid(found), tables.footnote(found)),
        *_configurations(found),
        *_over_time(found),
        *_parting(found),
        *(line for r in found.rows for text in r.warnings for line in plain_text.note(f"{r.label}: {text}")),
    ]


def _configurations(comparison: Comparison) -> list[str]:
    """Mean and spread over seeds, and what differs between configurations."""
    from gradlog.analysis.comparison import tables

    found = comparison.replicates
    if found is None:
        return []
    return [
        "",
        plain_text.heading("configurations"),
        *plain_text.kappas(*tables.configurations(found), tables.SPREAD, 20),
        *([""] if found.differences else []),
        *(line for d in found.differences for line in plain_text.wrap(plain_text.printable(d.sentence))),
        *(line for text in found.warnings for line in plain_text.note(text)),
    ]


def _over_time(found: Comparison) -> list[str]:
    """Kappa of the first predictor by window: a line of bars a run, on a scale of its own."""
    from gradlog.analysis.common.text import abbreviate

    name = next(iter(found.predictors))
    curves = {abbreviate(r.label, 16): [w["kappa"][name]["value"] for w in r.document["windows"]] for r in found.rows}
    lines = plain_text.curves({label: values for label, values in curves.items() if len(values) > 2})
    return ["", plain_text.heading(f"{name} by window, each run on its own scale"), *lines] if lines else []


def _parting(found: Comparison) -> list[str]:
    if found.note:
        return ["", *plain_text.note(f"no cosine: {found.note}")]
    c = found.cosines
    if c is None:
        return []
    from gradlog.analysis.comparison.divergence import MIN_CONSECUTIVE, SIMILARITY_THRESHOLD

    first = "never" if c.first_difference is None else f"from step {c.first_difference:,}"
    apart = "never" if c.parted is None else f"from step {c.parted:,}"
    rule = f"cosine surely below {SIMILARITY_THRESHOLD:g} at {MIN_CONSECUTIVE} steps in a row"
    shown = [
        ("steps in common", f"{len(c.steps):,}"),
        ("not identical", f"{first} (bit by bit)"),
        ("far apart", f"{apart} ({rule})"),
    ]
    return ["", plain_text.heading("gradients of the two runs"), *plain_text.facts(shown)]
