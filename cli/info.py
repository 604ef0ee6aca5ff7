"""``gradlog info``: what a run is, from its metadata and its small columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from gradlog.analysis.common.recorded import irregularities, recorded
from gradlog.cli import options, plain_text
from gradlog.cli.stderr import verbosity

MOST_ROWS = 100_000
"""Steps up to which loss and gradient norm are read and drawn."""


@click.command(epilog=options.examples("gradlog info run.zarr", "gradlog info s3://bucket/run.zarr --json"))
@click.argument("run")
@options.view
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@verbosity
def info(run: str, view: Any, as_json: bool, quiet: bool) -> None:
    """Show what RUN holds: status, steps, segments, model, sketch, storage.

    RUN is a folder such as run.zarr, a .zip of one, or a URL. It may still be recorded.
    """
    from gradlog.analysis import open_run
    from gradlog.analysis.following import silence

    opened = open_run(run, view)
    facts = opened.info
    shown = {"curves": _curves(opened), "silence": silence([opened])}
    click.echo("\n".join([json.dumps(facts, indent=1)] if as_json else summary(facts | shown)))


def _curves(run: Any) -> dict[str, list[float]] | str:
    """Loss and gradient norm in few numbers each, or why they cannot be had; nothing where reading would take long."""
    from gradlog.analysis.reading.binning import gradient_norm, scalar
    from gradlog.errors import CorruptRunError

    if "://" in run.where or not 3 <= run.n_steps <= MOST_ROWS or not run.has_exact_norms:
        return {}
    try:
        found = {"loss": scalar(run, "loss", plain_text.SPARK), "gradient norm": gradient_norm(run, plain_text.SPARK)}
    except CorruptRunError as error:
        return str(error)
    return {name: series.middle.tolist() for name, series in found.items() if series is not None}


def summary(run: dict[str, Any]) -> list[str]:
    """List the facts in the order a reader asks for them."""
    return [
        *_overview(run),
        "",
        *_over_time(run),
        *_segments(run),
        "",
        *_groups(run),
        "",
        *_storage(run),
        "",
        *_next(run),
    ]


def _overview(run: dict[str, Any]) -> list[str]:
    origin, known = run["provenance"], recorded(run)
    width = f"{len(run['groups']) * run['k']:,} numbers per step"
    return [
        plain_text.heading(plain_text.printable(run["path"]) + _ending(run)),
        *plain_text.facts(
            [
                *((label, known[label]) for label in ("status", "steps")),
                ("recorded", f"{known['gradient']}; {known['model']}"),
                ("sketch", f"{known['sketch']}; {known['groups']}, {width}"),
                *(
                    (label, known[label])
                    for label in ("scalars", "created", "format", "command", "optimizer", "versions")
                ),
                ("code", known["code"] and f"git {known['code']}"),
                ("host", known["host"]),
                *((f"note: {k}", v) for k, v in origin.get("notes", {}).items()),
            ]
        ),
        *(line for text in _remarks(run) for line in plain_text.note(text)),
    ]


def _ending(run: dict[str, Any]) -> str:
    """How the run ended, where that was not its proper end; nothing of one that was closed."""
    place = "before its first step" if run["last_step"] is None else f"after step {run['last_step']:,}"
    if run.get("silence"):
        return f": ended early, {place}: {run['silence']}"
    if run["status"] == "recording":
        return f": being recorded, {place}"
    if run["status"] in ("failed", "recovered"):
        return f": ended early, {place}" + (f": {plain_text.printable(run['reason'])}" if run["reason"] else "")
    return ""


def _over_time(run: dict[str, Any]) -> list[str]:
    curves = run.get("curves", {})
    if isinstance(curves, str):
        return [*plain_text.note(f"loss and norms cannot be shown: {curves}"), ""]
    width = max(map(len, curves), default=0)
    lines = [plain_text.curve(name, values, width) for name, values in curves.items()]
    return [plain_text.heading("over time"), *lines, ""] if lines else []


def _remarks(run: dict[str, Any]) -> Iterator[str]:
    if run.get("silence"):
        yield f"{run['silence']}; gradlog recover commits the rows that wait in its journal"
    yield from irregularities(run)


def _segments(run: dict[str, Any]) -> list[str]:
    rows = [
        [
            s["name"],
            f"{s['rows']:,}",
            _range(s),
            s["status"],
            " at ".join(str(x) for x in (s["parent"], s["parent_step"]) if x is not None),
        ]
        for s in run["segments"]
    ]
    return [
        plain_text.heading("segments"),
        *plain_text.table(["name", "rows", "steps", "status", "after"], rows, (0, 3, 4)),
    ]


def _range(segment: dict[str, Any]) -> str:
    return "-" if segment["first_step"] is None else f"{segment['first_step']:,} .. {segment['last_step']:,}"


def _groups(run: dict[str, Any]) -> list[str]:
    rows = [[name, f"{size:,}"] for name, size in zip(run["groups"], run["group_sizes"], strict=True)]
    return [plain_text.heading("groups"), *plain_text.table(["name", "numbers"], rows)]


def _storage(run: dict[str, Any]) -> list[str]:
    rows = [[name, plain_text.size(v["bytes"]), f"{v['files']:,}"] for name, v in run["storage"].items()]
    return [plain_text.heading("storage"), *plain_text.table(["array", "stored", "files"], rows)]


def _next(run: dict[str, Any]) -> list[str]:
    return [f"next: gradlog analyze {plain_text.printable(run['path'])}"] if run["steps"] > 1 else []
