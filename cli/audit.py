"""``gradlog audit``: whether a run's bytes are the ones that were recorded."""

from __future__ import annotations

import json

import click

from gradlog.cli import render
from gradlog.errors import CorruptRunError, NotARunError


@click.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def audit(run: str, as_json: bool) -> None:
    """Check every file of RUN against its manifests, their chain and its metadata, and read it.

    Finds damage: flipped, missing, swapped, truncated or added bytes. It cannot find a forger who rewrote the
    whole chain. Exit status 1 when a check fails.
    """
    from gradlog.analysis.audit import check

    findings = check(run)
    problems = findings.problems
    if problems == ["zarr.json: missing"]:
        raise NotARunError(f"{run}: no zarr.json inside; expected the folder of a run such as 'run.zarr'")
    if as_json:
        result = {"passed": not problems, "problems": problems, "notes": findings.notes}
        click.echo(json.dumps({"schema": "gradlog.audit/1", **result}, indent=1))
    for note in [] if as_json else findings.notes:
        click.echo(f"NOTE  {render.printable(note)}")
    for problem in [] if as_json else problems:
        click.echo(f"FAIL  {render.printable(problem)}")
    if problems:
        raise CorruptRunError(f"{run}: {len(problems)} integrity checks failed")
    if not as_json:
        click.echo("PASS  every file agrees with its manifest, the chain and the metadata")
