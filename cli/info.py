"""``gradlog info``: what a run is, from its metadata and its small columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from gradlog.cli import options, render
from gradlog.cli.console import verbosity

MOST_ROWS = 100_000
"""Steps up to which loss and gradient norm are read and drawn."""


@click.command()
@click.argument("run")
@options.view
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@verbosity
def info(run: str, view: Any, as_json: bool, quiet: bool) -> None:
    """Show what RUN holds: status, steps, segments, model, sketch, storage.

    RUN is a folder such as run.zarr, a .zip of one, or a URL. A run that is being recorded may be looked at.
    """
    from gradlog.analysis import open_run
    from gradlog.analysis.watch import silence

    opened = open_run(run, view)
    facts = opened.info
    shown = {"curves": _curves(opened), "silence": silence([opened])}
    click.echo("\n".join([json.dumps(facts, indent=1)] if as_json else summary(facts | shown)))


def _curves(run: Any) -> dict[str, list[float]] | str:
    """Loss and gradient norm in few numbers each, or why they cannot be had; nothing where reading would take long."""
    from gradlog.analysis.series import gradient_norm, scalar
    from gradlog.errors import CorruptRunError

    if "://" in run.where or not 3 <= run.length <= MOST_ROWS or not run.norms_exact:
        return {}
    try:
        found = {"loss": scalar(run, "loss", render.SPARK), "gradient norm": gradient_norm(run, render.SPARK)}
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
    from gradlog.analysis.text import optimizer_in_words

    origin, groups = run["provenance"], run["groups"]
    versions = origin.get("versions", {})
    layout = f"{render.count(run['dimension'], 'number')} in {render.count(run['tensors'], 'tensor')}"
    kind = "the gradient itself" if run["kind"] == "exact/1" else f"{run['kind']}, k = {run['k']}, seed {run['seed']}"
    return [
        render.heading(render.printable(run["path"]) + _ending(run)),
        *render.facts(
            [
                ("status", run["status"] + (f": {run['reason']}" if run["reason"] else "")),
                ("steps", _steps(run)),
                (
                    "recorded",
                    f"{run['what']}, {run['stage']}; {layout}",
                ),
                ("sketch", f"{kind}; {render.count(len(groups), 'group')}, {len(groups) * run['k']:,} numbers a step"),
                ("scalars", render.shorten(run["scalars"], 12)),
                ("created", run["created"]),
                ("format", run["format"]),
                ("command", " ".join(map(str, origin.get("argv", [])))),
                ("optimizer", optimizer_in_words(origin)),
                ("versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
                ("code", _code(origin.get("git", {}))),
                ("host", origin.get("hostname")),
                *((f"note: {k}", v) for k, v in origin.get("notes", {}).items()),
            ]
        ),
        *(line for text in _remarks(run) for line in render.note(text)),
    ]


def _ending(run: dict[str, Any]) -> str:
    """How the run ended, where that was not its proper end; nothing of one that was closed."""
    place = "before its first step" if run["last_step"] is None else f"after step {run['last_step']:,}"
    if run.get("silence"):
        return f": ended early, {place}: {run['silence']}"
    if run["status"] == "recording":
        return f": being recorded, {place}"
    if run["status"] in ("failed", "recovered"):
        return f": ended early, {place}" + (f": {render.printable(run['reason'])}" if run["reason"] else "")
    return ""


def _over_time(run: dict[str, Any]) -> list[str]:
    curves = run.get("curves", {})
    if isinstance(curves, str):
        return [*render.note(f"loss and norms cannot be shown: {curves}"), ""]
    width = max(map(len, curves), default=0)
    lines = [render.curve(name, values, width) for name, values in curves.items()]
    return [render.heading("over time"), *lines, ""] if lines else []


def _steps(run: dict[str, Any]) -> str:
    if not run["steps"]:
        return "none yet"
    every = "" if run["every"] == 1 else f", every {run['every']}"
    return f"{run['steps']:,}, numbered {run['first_step']:,} to {run['last_step']:,}{every}"


def _code(git: dict[str, Any]) -> str:
    if not git.get("commit"):
        return ""
    return f"git {git['commit'][:12]}" + (", with uncommitted changes" if git.get("dirty") else "")


def _remarks(run: dict[str, Any]) -> Iterator[str]:
    if run.get("silence"):
        yield f"{run['silence']}; gradlog recover commits the rows that wait in its journal"
    if run["gaps"]:
        before, after = run["gaps"][0]
        yield f"steps are missing in {render.count(len(run['gaps']), 'place')}, first between {before} and {after}"
    if run["nonfinite"]:
        steps = list(map(str, run["nonfinite"]))
        yield f"NaN or inf in {render.count(len(steps), 'step')}: {render.shorten(steps)}"
    again = run["relogged"]
    if again["steps"]:
        yield (
            f"{render.count(again['steps'], 'step')} logged again after a rewind, {again['identical']:,} of them with "
            "identical norms" + ("" if again["first_different"] is None else f", not step {again['first_different']:,}")
        )
    for old, new in again["writers"]:
        yield f"two writers at one time: {old} and {new} hold rows of two jobs, not of a rewind"
    for key, text in (
        ("skipped", "steps that the optimizer skipped"),
        ("partial", "steps in which some tensors had no gradient"),
        ("fewer_ranks", "rows recorded by fewer ranks than others"),
        ("abandoned", "rows of abandoned branches, left out of this view"),
        ("journal_rows", "rows still in the journal, read from there"),
    ):
        if run[key]:
            yield f"{run[key]:,} {text}"


def _segments(run: dict[str, Any]) -> list[str]:
    rows = [
        [
            s["name"],
            f"{s['rows']:,}",
            _range(s),
            s["status"],
            (s["parent"] or "") and f"{s['parent']} at {s['parent_step']}",
        ]
        for s in run["segments"]
    ]
    return [render.heading("segments"), *render.table(["name", "rows", "steps", "status", "after"], rows, (0, 3, 4))]


def _range(segment: dict[str, Any]) -> str:
    return "-" if segment["first_step"] is None else f"{segment['first_step']:,} .. {segment['last_step']:,}"


def _groups(run: dict[str, Any]) -> list[str]:
    rows = [[name, f"{size:,}"] for name, size in zip(run["groups"], run["group_sizes"], strict=True)]
    return [render.heading("groups"), *render.table(["name", "numbers"], rows)]


def _storage(run: dict[str, Any]) -> list[str]:
    rows = [[name, render.size(v["bytes"]), f"{v['files']:,}"] for name, v in run["storage"].items()]
    return [render.heading("storage"), *render.table(["array", "stored", "files"], rows)]


def _next(run: dict[str, Any]) -> list[str]:
    return [f"next: gradlog analyze {render.printable(run['path'])}"] if run["steps"] > 1 else []
