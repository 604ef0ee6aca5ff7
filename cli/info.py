"""``gradlog info``: what a run is, from its metadata and its small columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from gradlog.analysis.common.text import enumerate_some
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
    from gradlog.analysis.common.text import optimizer_in_words

    origin, groups = run["provenance"], run["groups"]
    versions = origin.get("versions", {})
    layout = f"{plain_text.count(run['dimension'], 'number')} in {plain_text.count(run['tensors'], 'tensor')}"
    kind = "the gradient itself" if run["kind"] == "exact/1" else f"{run['kind']}, k = {run['k']}, seed {run['seed']}"
    return [
        plain_text.heading(plain_text.printable(run["path"]) + _ending(run)),
        *plain_text.facts(
            [
                ("status", run["status"] + (f": {run['reason']}" if run["reason"] else "")),
                ("steps", _steps(run)),
                (
                    "recorded",
                    f"{run['what']}, {run['stage']}; {layout}",
                ),
                (
                    "sketch",
                    f"{kind}; {plain_text.count(len(groups), 'group')}, {len(groups) * run['k']:,} numbers a step",
                ),
                ("scalars", enumerate_some(run["scalars"], 12)),
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
        yield f"steps are missing in {plain_text.count(len(run['gaps']), 'place')}, first between {before} and {after}"
    if run["nonfinite"]:
        steps = list(map(str, run["nonfinite"]))
        yield f"NaN or inf in {plain_text.count(len(steps), 'step')}: {enumerate_some(steps, 6)}"
    again = run["relogged"]
    if again["steps"]:
        counted = plain_text.count(again["steps"], "step")
        yield (
            f"{counted} logged again after a rewind, {again['identical']:,} of them with identical norms"
            + ("" if again["first_different"] is None else f", not step {again['first_different']:,}")
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
