"""``gradlog analyze`` of several runs: tables with one row per run, and the runs that failed."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from gradlog.analysis.common.text import TERMINAL, counted
from gradlog.analysis.measures.predictors.registry import usual, without_reference
from gradlog.cli import output_files, plain_text, stderr

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import View
    from gradlog.analysis.results.forms.json_document import Document
    from gradlog.analysis.results.options import Caching, Question


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
