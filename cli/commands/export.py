"""``gradlog export``: rows or results for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from gradlog.analysis.common.text import stem
from gradlog.analysis.trackers import TRACKERS
from gradlog.cli import options, output_files, stderr

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run, View
    from gradlog.analysis.results.forms.export import Form
    from gradlog.analysis.trackers import Name

FILES = ("netcdf", "zarr", "parquet", "csv", "npz")

written, tracked = options.under("What is written"), options.under("Output to a tracker")


@options.command(
    "gradlog export run.zarr --to csv --no-sketch",
    "gradlog export run.zarr --to netcdf --what result --window 100",
    "gradlog export run.zarr --to tensorboard -o runs/adamw",
    "gradlog export run.zarr --to wandb --project digits --into 3kq9x2ab",
)
@click.argument("run")
@written("--what", type=click.Choice(["rows", "result"]),
         help="Write the recorded rows, or the result of an analysis (to a tracker always).")  # fmt: skip
@written("--no-sketch", is_flag=True, help="Write rows without the sketch: steps, scalars and norms.")
@written("--window", type=click.IntRange(2), metavar="N",
         help="Add every window of N rows to the result. Default: none; to a tracker, about 24.")  # fmt: skip
@options.view
@options.output("--to", "form", required=True, type=click.Choice([*FILES, *TRACKERS]),
                help="Format or tracker to write.")  # fmt: skip
@options.output("-o", "--output", "target", metavar="PLACE",
                help="File to write, log folder of TensorBoard, folder of wandb, or tracking URI of MLflow. Default: "
                     "the name of RUN with the format's suffix; wandb and MLflow: as they are set up.")  # fmt: skip
@options.force
@tracked("--project", metavar="NAME", help="Project of wandb or trackio, experiment of MLflow. Default: gradlog.")
@tracked("--into", metavar="ID", help="Run of wandb, MLflow or trackio to add to. Default: a new one.")
@stderr.verbosity
def export(
    run: str, form: str, target: str | None, what: str | None, no_sketch: bool, window: int | None, view: View,
    project: str | None, into: str | None, force: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write RUN as a file of another format, or its results into an experiment tracker.

    Files are netCDF, zarr, Parquet, CSV and npz. Rows are streamed, so a run need not fit into memory. A tracker
    (TensorBoard, wandb, MLflow, trackio) gets kappa, rank and signal over windows, events, norms and a figure.
    """
    from gradlog.analysis import open_run

    if form in FILES:
        if project or into:
            raise click.UsageError("--project and --into go with --to wandb, mlflow or trackio")
        if what != "result" and window:
            raise click.UsageError("--window goes with --what result: rows have no windows")
        if what == "result" and no_sketch:
            raise click.UsageError("--no-sketch goes with --what rows: a result holds no sketch")
        path = Path(target) if target else _beside(run, what or "rows", form)
        output_files.require_free(path, force)
        opened = open_run(run, view)
        if what == "result":
            _result(opened, cast("Form", form), path, window, force, quiet)
        else:
            _rows(opened, cast("Form", form), path, not no_sketch, force)
        click.echo(str(path))
        return
    if what == "rows" or no_sketch:
        raise click.UsageError(f"--to {form} writes the result: leave out --what rows and --no-sketch")
    click.echo(
        _to_tracker(open_run(run, view), cast("Name", form), target, project, into, window, force=force, quiet=quiet)
    )


def _rows(run: Run, form: Form, path: Path, sketch: bool, force: bool) -> None:
    from gradlog.analysis import export_rows

    with output_files.replacing(path, force) as fresh:
        export_rows(run, fresh, form, sketch=sketch)


def _result(run: Run, form: Form, path: Path, window: int | None, force: bool, quiet: bool) -> None:
    from gradlog.analysis import analyze, export_result

    with stderr.progress("analyze", quiet) as progress:
        result = analyze(run, window=window, progress=progress)
    with output_files.replacing(path, force) as fresh:
        export_result(result, fresh, form)


def _to_tracker(
    run: Run, tracker: Name, place: str | None, project: str | None, into: str | None, window: int | None, *,
    force: bool, quiet: bool,
) -> str:  # fmt: skip
    from gradlog.analysis import export_to_tracker

    with stderr.progress("analyze", quiet) as progress:
        return export_to_tracker(
            run, tracker, place, project=project, into=into, window=window, force=force, progress=progress
        )


def _beside(run: str, what: str, form: str) -> Path:
    """Name of the export in the current folder: run.nc, run.result.nc; run.rows.zarr, never the run itself."""
    from gradlog.analysis.results.forms.export import SUFFIX

    suffix = SUFFIX[form]
    middle = ".result" if what == "result" else ".rows" if suffix == ".zarr" else ""
    return Path(f"{stem(run)}{middle}{suffix}")
