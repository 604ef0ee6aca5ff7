"""``gradlog compare``: several runs in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from gradlog.cli import options, output_files, plain_text, stderr

if TYPE_CHECKING:
    from gradlog.analysis.comparison.compare import Comparison
    from gradlog.analysis.results.options import Caching, Keywords


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
@options.computing
@stderr.verbosity
def compare(
    runs: tuple[str, ...], form: str, predictors: tuple[str, ...] | None, window: int | None, reference: str | None,
    group_by: tuple[str, ...], replicate: str, plot: Path | None, force: bool, quiet: bool, cache: Caching,
    **asked: Unpack[Keywords],
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
    from gradlog.analysis.comparison.find import the_one

    if plot is not None:
        output_files.require_free(plot, force)
    measure = of_runs if the_one(runs) else compare_archive
    with stderr.progress("compare", quiet) as asked["progress"]:
        found = measure(
            runs, predictors, window, reference, group_by=group_by, replicate=replicate, cache=cache, **asked
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
    """Say what differs between configurations; then kappa of each run, means, curves, and where two runs part."""
    from gradlog.analysis.common.text import abbreviate
    from gradlog.analysis.comparison import tables

    lines = (
        [line for d in found.replicates.differences for line in plain_text.note(d.sentence)] if found.replicates else []
    )
    lines += [*([""] if lines else []), *plain_text.kappas(*tables.grid(found), tables.footnote(found))]
    if found.replicates is not None:
        lines += ["", plain_text.heading("configurations")]
        lines += plain_text.kappas(*tables.configurations(found.replicates), tables.SPREAD, 20)
        lines += [line for text in found.replicates.warnings for line in plain_text.note(text)]
    name = next(iter(found.predictors))
    curves = [(r.label, [w["kappa"][name]["value"] for w in r.document["windows"]]) for r in found.rows]
    drawn = plain_text.curves((abbreviate(label, 16), values) for label, values in curves if len(values) > 2)
    if drawn:
        lines += ["", plain_text.heading(f"{name} by window, each run on its own scale"), *drawn]
    lines += _parting(found)
    return lines + [line for r in found.rows for text in r.warnings for line in plain_text.note(f"{r.label}: {text}")]


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
