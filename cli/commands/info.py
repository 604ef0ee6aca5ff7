"""``gradlog info``: what a run is, from its metadata and its small columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gradlog.analysis.common.recorded import Info, irregularities, recorded
from gradlog.analysis.common.text import TERMINAL
from gradlog.cli import one_step, options, plain_text
from gradlog.cli.stderr import verbosity

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run, View

MOST_ROWS = 100_000
"""Steps up to which loss and gradient norm are read and drawn."""


@options.command(
    "gradlog info run.zarr",
    "gradlog info run.zarr --step 116",
    "gradlog info s3://bucket/run.zarr --json",
)
@click.argument("run")
@options.view
@options.selected("--step", type=int, metavar="N", help="Show step N beside its neighbours instead.")
@options.json
@verbosity
def info(run: str, view: View, step: int | None, as_json: bool, quiet: bool) -> None:
    """Show what RUN holds: status, steps, model, sketch, groups, provenance, storage.

    RUN is a folder such as run.zarr, a .zip of one, or a URL. It may still be recorded.
    """
    from gradlog.analysis import neighbours, open_run
    from gradlog.analysis.following.watch import silence

    opened = open_run(run, view)
    if step is not None:
        found = neighbours(opened, step)
        click.echo("\n".join([json.dumps(found.to_dict(), indent=1)] if as_json else one_step.text(found)))
        return
    lines = [json.dumps(opened.info, indent=1)] if as_json else summary(opened.info, silence([opened]), curves(opened))
    click.echo("\n".join(lines))


def curves(run: Run) -> list[str]:
    """Loss and gradient norm as lines of bars, or why they cannot be had; nothing where reading would take long."""
    from gradlog.analysis.reading.binning import gradient_norm, scalar
    from gradlog.errors import CorruptRunError

    if "://" in run.where or not 3 <= run.n_steps <= MOST_ROWS or not run.has_exact_norms:
        return []
    try:
        found = {"loss": scalar(run, "loss", plain_text.SPARK), "gradient norm": gradient_norm(run, plain_text.SPARK)}
    except CorruptRunError as error:
        return plain_text.note(f"loss and norms cannot be shown: {error}")
    width = max(map(len, found))
    return [
        plain_text.curve(name, series.middle.tolist(), width, TERMINAL.interval(series.least, series.most))
        for name, series in found.items()
        if series is not None
    ]


def summary(run: Info, silence: str, drawn: list[str]) -> list[str]:
    """List the facts in the order a reader asks for them; ``silence``: why no more rows may come."""
    known, path = recorded(run), plain_text.printable(run["path"])
    width = f"{len(run['groups']) * run['k']:,} numbers per step"
    main = {name: known[name] for name in ("status", "steps")}
    main |= {"recorded": f"{known['gradient']}; {known['model']}"}
    main |= {"sketch": f"{known['sketch']}; {known['groups']}, {width}", "sketched by": known["fold"]}
    main |= {"scalars": known["scalars"]}
    origin = {name: known[name] for name in ("created", "command", "optimizer", "versions")}
    origin |= {"code": known["code"] and f"git {known['code']}", "host": known["host"]}
    origin |= {f"note: {name}": value for name, value in run["provenance"].get("notes", {}).items()}
    parts = [
        [
            plain_text.heading(path + _ending(run, silence)),
            *plain_text.facts(main.items()),
            *(line for text in _remarks(run, silence) for line in plain_text.note(text)),
        ],
        [plain_text.heading("over time"), *drawn] if drawn else [],
        [plain_text.heading("groups"), *_groups(run)],
        _segments(run),
        [plain_text.heading("where it comes from"), *plain_text.facts(origin.items())],
        [plain_text.heading("storage"), *_storage(run)],
        [f"next: gradlog analyze {path}"] if run["steps"] > 1 else [],
    ]
    return [line for part in parts if part for line in (*part, "")][:-1]


def _ending(run: Info, silence: str) -> str:
    """How the run ended, where that was not its proper end; nothing of one that was closed."""
    place = "before its first step" if run["last_step"] is None else f"after step {run['last_step']:,}"
    if silence:
        return f": ended early, {place}: {silence}"
    if run["status"] == "recording":
        return f": being recorded, {place}"
    if run["status"] in ("failed", "recovered"):
        return f": ended early, {place}" + (f": {plain_text.printable(run['reason'])}" if run["reason"] else "")
    return ""


def _remarks(run: Info, silence: str) -> Iterator[str]:
    if silence:
        yield f"{silence}; gradlog recover commits the rows that wait in its journal"
    yield from irregularities(run)


def _groups(run: Info) -> list[str]:
    rows = [[name, f"{size:,}"] for name, size in zip(run["groups"], run["group_sizes"], strict=True)]
    return plain_text.table(["name", "parameters"], rows)


def _segments(run: Info) -> list[str]:
    """Parts in which the run was recorded; nothing where it is one, recorded to its end."""
    if len(run["segments"]) == 1 and run["status"] == "closed":
        return []
    rows = []
    for s in run["segments"]:
        steps = "-" if s["first_step"] is None else f"{s['first_step']:,} .. {s['last_step']:,}"
        after = " at ".join(str(x) for x in (s["parent"], s["parent_step"]) if x is not None)
        rows.append([s["name"], f"{s['rows']:,}", steps, s["status"], after])
    return [
        plain_text.heading("segments"),
        *plain_text.table(["name", "rows", "steps", "status", "after"], rows, (0, 3, 4)),
    ]


def _storage(run: Info) -> list[str]:
    rows = [[name, plain_text.size(v["bytes"]), f"{v['files']:,}"] for name, v in run["storage"].items()]
    return [*plain_text.table(["array", "stored", "files"], rows), f"  format {plain_text.printable(run['format'])}"]
