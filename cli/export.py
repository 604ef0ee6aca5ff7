"""``gradlog export``: rows or results for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradlog.cli import options, output_files, stderr

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import View
    from gradlog.analysis.results.export import Form

written = options.under("What is written")


@options.command(
    "gradlog export run.zarr --to csv --no-sketch",
    "gradlog export run.zarr --to netcdf --what result --window 100",
)
@click.argument("run")
@written("--what", type=click.Choice(["rows", "result"]), default="rows",
         help="Write the recorded rows, or the result of an analysis.")  # fmt: skip
@written("--no-sketch", is_flag=True, help="Write rows without the sketch: steps, scalars and norms.")
@written("--window", type=click.IntRange(2), metavar="N", help="Add every window of N rows to the result.")
@options.view
@options.output("--to", "form", required=True, type=click.Choice(["netcdf", "zarr", "parquet", "csv", "npz"]),
                help="Format to write.")  # fmt: skip
@options.output("-o", "--output", "target", metavar="FILE",
                help="File to write. Default: the name of RUN with the format's suffix.")  # fmt: skip
@options.force
@stderr.verbosity
def export(
    run: str, form: Form, target: str | None, what: str, no_sketch: bool, window: int | None, view: View, force: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Write RUN as netCDF, zarr, Parquet, CSV or npz.

    Rows are streamed, so a run need not fit into memory.
    """
    from gradlog.analysis import analyze, open_run
    from gradlog.analysis.results.export import SUFFIX, export_result, export_rows

    if what == "rows" and window:
        raise click.UsageError("--window goes with --what result: rows have no windows")
    if what == "result" and no_sketch:
        raise click.UsageError("--no-sketch goes with --what rows: a result holds no sketch")
    path = Path(target) if target else _beside(run, what, SUFFIX[form])
    output_files.require_free(path, force)
    opened = open_run(run, view)
    if what == "rows":
        with output_files.replacing(path, force) as fresh:
            export_rows(opened, fresh, form, sketch=not no_sketch)
    else:
        with stderr.progress("analyze", quiet) as progress:
            result = analyze(opened, window=window, progress=progress)
        with output_files.replacing(path, force) as fresh:
            export_result(result, fresh, form)
    click.echo(str(path))


def _beside(run: str, what: str, suffix: str) -> Path:
    """Name of the export in the current folder: run.nc, run.result.nc; run.rows.zarr, never the run itself."""
    stem = Path(run.rstrip("/")).name.removesuffix(".zip").removesuffix(".zarr")
    middle = ".result" if what == "result" else ".rows" if suffix == ".zarr" else ""
    return Path(f"{stem}{middle}{suffix}")
