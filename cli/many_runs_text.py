"""``gradlog analyze`` of several runs: tables with one row per run, and the runs that failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from gradlog.analysis.common.text import TERMINAL, counted
from gradlog.analysis.measures.predictors.registry import without_reference
from gradlog.cli import output_files, plain_text, stderr

Document = dict[str, Any]


def archive(
    runs: tuple[str, ...], options: dict[str, Any], as_json: bool, target: Path | None, force: bool, quiet: bool
) -> None:
    """Analyze all runs, print and write the result; exit status 1 if any failed."""
    from gradlog.analysis import analyze_each

    with stderr.progress("analyze", quiet, "runs") as progress:
        found = analyze_each(runs, progress=progress, **options)
    document = found.document()
    if target is not None:
        output_files.save(found.dataset(), document, target, force)
        stderr.log.info("wrote %s", target)
    lines = [json.dumps(document, indent=1, allow_nan=False)] if as_json else tables(document)
    click.echo("\n".join(lines))
    stderr.tell_failed(found.failed)


def tables(document: Document) -> list[str]:
    """Kappa, gain and rank: one line per run."""
    runs = document["runs"]
    failed = f", {len(document['failed'])} failed" if document["failed"] else ""
    head = [plain_text.heading(f"{counted(len(runs), 'run')}{failed}")]
    if not runs:
        return head
    names = _names([r["run"]["path"] for r in runs])
    predictors = without_reference(runs[0]["kappa"])
    parts = [head]
    for field, title in (("value", "kappa"), ("gain", "gain over the same gradients in random order")):
        rows = [[name, *(TERMINAL.fixed(r["kappa"][p][field], sign=field == "gain") for p in predictors)]
                for name, r in zip(names, runs, strict=True)]  # fmt: skip
        parts.append([plain_text.heading(title), *plain_text.table(["run", *predictors], rows)])
    eps = list(runs[0]["rank"])
    rows = [[name, f"{r['run']['steps']:,}", f"{len(r['run']['groups'])} x {r['run']['k']}",
             *(TERMINAL.rank(r["rank"][e]["low"], r["rank"][e]["high"]) for e in eps), str(len(r["warnings"]))]
            for name, r in zip(names, runs, strict=True)]  # fmt: skip
    title = "rank of the logged increments, certified interval where it is open, at eps"
    parts.append([plain_text.heading(title), *plain_text.table(["run", "steps", "n", *eps, "warnings"], rows)])
    return [line for part in parts for line in (*part, "")][:-1]


def _names(paths: list[str]) -> list[str]:
    """Paths without the folder that all of them share."""
    shared = len(paths[0].rpartition("/")[0]) + 1 if "/" in paths[0] else 0
    while shared and any(p[:shared] != paths[0][:shared] for p in paths):
        shared = paths[0].rfind("/", 0, shared - 1) + 1
    return [p[shared:] for p in paths]
