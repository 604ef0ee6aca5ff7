"""``gradlog audit``: what an archived run lets somebody conclude who was not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradlog.analysis.common.text import counted
from gradlog.cli import options, plain_text
from gradlog.cli.stderr import progress, verbosity
from gradlog.errors import CorruptRunError

if TYPE_CHECKING:
    from gradlog.analysis.audit.findings import Report, Status


def _kept(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[int, Path]]:
    """Read STEP=FILE."""
    found = []
    for value in values:
        step, equals, file = value.partition("=")
        if not (equals and step.isdecimal()):
            raise click.BadParameter(f"{value!r} is not of the form 1000=model.pt")
        if not Path(file).is_file():
            raise click.BadParameter(f"there is no file {file!r}")
        found.append((int(step), Path(file)))
    return found


ORDER: tuple[Status, ...] = ("FAIL", "WARN", "SKIP", "PASS")
"""What a reader must see first."""

kept, replayed = options.under("What you kept of the run"), options.under("Computing steps again")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@options.command(
    "gradlog audit run.zarr",
    "gradlog audit run.zarr --checkpoint 0=init.pt --checkpoint 1000=step1000.pt",
    "gradlog audit run.zarr --replay replay.py",
)
@click.argument("run")
@click.argument("other", required=False)
@kept("--manifest", type=_FILE, help="Compare all files with a sha256sum listing that you kept.")
@kept("--head", "heads", multiple=True, metavar="HEX", help="Chain head that you kept; may be repeated.")
@kept("--checkpoint", "checkpoints", multiple=True, callback=_kept, metavar="STEP=FILE",
      help="Model checkpoint from before that step (.safetensors, .npz, torch); give two or more.")  # fmt: skip
@kept("--sgd", is_flag=True, help="The optimizer was plain SGD, so gradients must add up between checkpoints.")
@replayed("--replay", type=_FILE, metavar="SCRIPT",
          help="EXECUTE this script of yours; its gradient(step) computes chosen steps again.")  # fmt: skip
@replayed("--replay-steps", type=click.IntRange(1), default=8, metavar="N",
          help="Number of steps to replay: half of them the largest gradients, the rest random.")  # fmt: skip
@replayed("--seed", type=int, default=0, metavar="N", help="Seed for choosing the random half.")
@options.json
@options.output("--digest", is_flag=True, help="Print one SHA-256 for all files of RUN and do nothing else.")
@options.output("--strict", is_flag=True,
                help="Exit with 1 on warnings, too, and where only the bytes could be looked at.")  # fmt: skip
@verbosity
def audit(
    run: str, other: str | None, as_json: bool, strict: bool, digest: bool, manifest: Path | None,
    heads: tuple[str, ...], checkpoints: list[tuple[int, Path]], sgd: bool, replay: Path | None, replay_steps: int,
    seed: int, quiet: bool,
) -> None:  # fmt: skip
    """Check whether an archived RUN can be believed, and whether it shares rows with an OTHER one.

    Prints PASS, FAIL, WARN (odd; judge for yourself) and SKIP (could not be checked). The exit status is 1 if a check
    fails. Nothing in RUN is executed, and no link in it is followed. An audit shows consistency and is no proof: a
    forger who recomputes every digest is found only where his numbers contradict each other or something you kept.

    To make the listing for --manifest: cd RUN; find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum >
    ../run.sha256
    """
    from gradlog.analysis import audit_run
    from gradlog.analysis.audit.checks.replay import load_hook
    from gradlog.analysis.audit.listing import tree_digest

    if sgd and not checkpoints:
        raise click.UsageError("--sgd goes with --checkpoint: gradients are added up between two of them")
    if digest:
        click.echo(tree_digest(run))
        return
    listing, gradient = manifest.read_bytes() if manifest else None, load_hook(replay) if replay else None
    with progress("audit", quiet) as advance:
        report = audit_run(
            run, other, manifest=listing, heads_kept=heads, checkpoints=checkpoints, sgd=sgd, replay=gradient,
            replay_steps=replay_steps, seed=seed, progress=advance,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1, allow_nan=False))
    else:
        click.echo("\n".join(_lines(run, report)))
    if report.failed or (strict and (report.count("WARN") or _unread(report))):
        raise CorruptRunError(f"{run}: {_reason(report)}")


def _unread(report: Report) -> bool:
    """Whether the bytes alone were looked at, as of a zip or a URL."""
    return all(f.status == "SKIP" for f in report.lines if f.check != "integrity")


def _reason(report: Report) -> str:
    if _unread(report) and not report.failed:
        return "--strict: what its files hold was not looked at; unpack or copy the run to a local folder"
    return f"{counted(report.count('FAIL'), 'finding')} failed, {counted(report.count('WARN'), 'warning')}"


def _lines(run: str, report: Report) -> list[str]:
    """Say what it adds up to, then list what contradicts, what is odd, what was not looked at, and what holds."""
    answer = "it contradicts itself or what you kept" if report.failed else "nothing contradicts it"
    if _unread(report) and not report.failed:
        answer = "its files are intact, and what they hold was not looked at"
    counts = ", ".join(f"{report.count(status)} {status}" for status in ORDER if report.count(status))
    return [
        plain_text.heading(f"{plain_text.printable(run)}: {answer} ({counts})"),
        *(
            text
            for line in sorted(report.lines, key=lambda line: ORDER.index(line.status))
            for text in plain_text.wrap(plain_text.printable(line.text), f"{line.status}  {line.check:<11} ")
        ),
    ]
