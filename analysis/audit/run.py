"""All checks of a run, in the order in which one may rely on what the ones before have found."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from gradlog.analysis.audit import handed_files, listing
from gradlog.analysis.audit.checkpoint_files import Checkpoint, load
from gradlog.analysis.audit.checks import chain_heads, completeness
from gradlog.analysis.audit.checks.checkpoints import checkpoints as against_checkpoints
from gradlog.analysis.audit.checks.duplicates import duplicates
from gradlog.analysis.audit.checks.norms import norms
from gradlog.analysis.audit.checks.provenance import provenance
from gradlog.analysis.audit.checks.replay import Gradient
from gradlog.analysis.audit.checks.replay import replay as against_replay
from gradlog.analysis.audit.checks.scalars import scalars
from gradlog.analysis.audit.checks.segment_boundaries import joins
from gradlog.analysis.audit.checks.shared_rows import shared
from gradlog.analysis.audit.checks.snapshots import snapshots
from gradlog.analysis.audit.findings import Line, Report, problems
from gradlog.analysis.audit.handed_files import require_folder, sizes
from gradlog.analysis.audit.integrity import check as check_bytes
from gradlog.analysis.audit.integrity import examine
from gradlog.analysis.audit.reader import Witness
from gradlog.analysis.common.blas_threads import single_threaded
from gradlog.analysis.common.types import Progress
from gradlog.analysis.reading.rewinds import describe, describe_writers
from gradlog.errors import NotARunError

LOOKS = 3
"""How often a run with problems is looked at while its writer lives: what it is just doing looks like damage once."""

CHECKS: dict[str, Callable[[Witness], Iterable[Line]]] = {
    "steps": lambda w: completeness.steps(w.header, w.evidence),
    "lineage": lambda w: completeness.lineage(w.header, w.evidence),
    "repeats": lambda w: (Line("PASS", "repeats", note) for note in describe(w.run.relogged)),
    "writers": lambda w: (Line("WARN", "writers", n) for n in describe_writers(w.run.relogged["writers"])),
    "time": lambda w: completeness.times(w.header, w.evidence),
    "parameters": lambda w: completeness.parameters(w.header, w.evidence),
    "nonfinite": lambda w: completeness.nonfinite(w.evidence),
    "norms": lambda w: norms(w.header, w.evidence),
    "rows": lambda w: duplicates(w.evidence),
    "joins": lambda w: joins(w.evidence),
    "scalars": lambda w: scalars(w.header, w.evidence),
    "provenance": lambda w: provenance(w.header),
}
"""Checks that read the run's content, in order; they only do so where its bytes are sound."""

CONTENT = [name for name in CHECKS if name not in ("repeats", "writers")]
"""Those that always have something to say."""

SOUND = "every file agrees with its manifest, the chain and the metadata"


class Held(TypedDict, total=False):
    """What an auditor holds beside the run, see ``audit_run``."""

    manifest: bytes | None
    heads_kept: Sequence[str]
    checkpoints: Sequence[tuple[int, str | os.PathLike[str]]]
    sgd: bool
    replay: Gradient | None
    replay_steps: int
    seed: int


def audit_run(
    path: str | os.PathLike[str],
    other: str | os.PathLike[str] | None = None,
    *,
    progress: Progress = lambda done, total: None,
    **held: Unpack[Held],
) -> Report:
    """Audit a run.

    Parameters
    ----------
    path : str or path-like
        Folder of the run. Nothing in it is executed, and no link in it is followed. Of a .zip or a URL only the
        integrity is checked.
    other : str or path-like, optional
        A second run, looked through for rows that it shares with this one.
    progress : callable
        Told (rows done, rows in all).
    manifest : bytes, optional
        Listing of ``sha256sum`` that was kept elsewhere.
    heads_kept : sequence of str
        Chain heads (BLAKE2b-256 in hex) that were kept elsewhere.
    checkpoints : sequence of (int, path)
        Model checkpoints, each with the number of the step that comes next; .safetensors, .npz or torch.
    sgd : bool
        The optimizer was plain SGD.
    replay : callable, optional
        ``gradient(step)``, the auditor's own code, which computes a step's gradient anew.
    replay_steps, seed : int
        How many steps (default: 8), half of them the largest; seed (default: 0) of the choice of the others.

    Returns
    -------
    Report

    Raises
    ------
    NotARunError, StoreUnavailableError, UnsupportedError
        There is no run; its store elsewhere refuses; or more than integrity is asked of one that is no local folder.
    CorruptRunError, MissingDependencyError
        A checkpoint cannot be read.

    Examples
    --------
    >>> report = audit_run("run.zarr")          # doctest: +SKIP
    >>> [line.text for line in report.lines if line.status == "FAIL"]          # doctest: +SKIP
    []
    """
    manifest, replay, heads = held.get("manifest"), held.get("replay"), held.get("heads_kept", ())
    loaded = [(step, Path(file)) for step, file in held.get("checkpoints", ())]
    more = other or manifest is not None or heads or loaded or replay
    if not more and (os.path.isfile(path) or "://" in os.fspath(path)):
        return _elsewhere(os.fspath(path))
    folder = require_folder(path)
    beside = None if other is None else require_folder(other)
    files = [(step, load(file)) for step, file in loaded]
    report = Report(os.fspath(path))
    with single_threaded():
        witness = _sound(report, folder, progress=progress)
        if manifest is not None:
            report.run("manifest", listing.compare(folder, manifest))
        if witness is None:
            wanted = {"head": heads, "checkpoints": files, "replay": replay, "shared": other}
            for name in (*CONTENT, *(name for name, asked in wanted.items() if asked)):
                report.run(name, [Line("SKIP", name, "not looked at: the files are not sound")])
            return report
        for name, check in CHECKS.items():
            report.run(name, _lines(check, witness))
        _kept(report, folder, witness, heads, files, held.get("sgd", False))
        if replay is not None:
            count, seed = held.get("replay_steps", 8), held.get("seed", 0)
            report.run("replay", _lines(lambda w: against_replay(w.run, replay, count, seed), witness))
        if beside is not None and (second := _sound(report, beside, f"{other}: ")):
            report.run("shared", _lines(lambda w: shared(w.run, second.run), witness))
    return report


def _lines(check: Callable[[Witness], Iterable[Line]], witness: Witness) -> Iterator[Line]:
    """Begin a check only where the report catches what it raises."""
    yield from check(witness)


def _elsewhere(path: str) -> Report:
    """Check the bytes of a run in an archive or object store."""
    found, report = check_bytes(path), Report(path)
    if found.problems == ["zarr.json: missing"]:
        raise NotARunError(f"{path}: no zarr.json inside; expected a run such as 'run.zarr'")
    report.run("integrity", problems("integrity", found.problems, SOUND))
    report.run("integrity", (Line("PASS", "integrity", note) for note in found.notes))
    for name in CONTENT:
        report.run(name, [Line("SKIP", name, "needs the files in a local folder: unpack or copy the run")])
    return report


def _sound(
    report: Report, folder: Path, label: str = "", progress: Progress = lambda done, total: None
) -> Witness | None:
    """Bounds first, then every byte; None unless both hold."""
    for look in range(1, LOOKS + 1):
        fresh, witnesses = Report(report.path), list[Witness]()
        sound = fresh.run("limits", _limits(folder, label)) and fresh.run(
            "integrity", _integrity(folder, label, progress, witnesses)
        )
        if sound or look == LOOKS or not _live(folder):
            break
    report.lines += fresh.lines
    return witnesses[0] if sound else None


def _live(folder: Path) -> bool:
    """Whether the run may still be written to, so that what looked wrong may look right a moment later."""
    try:
        return any(s.status == "recording" for s in handed_files.headers(folder)[1])
    except Exception:  # whatever hostile metadata makes of it
        return False


def _limits(folder: Path, label: str) -> Iterator[Line]:
    files, odd = sizes(folder)
    found = f"{label}{len(files):,} plain files, {sum(files.values()):,} bytes"
    odd = odd or list(handed_files.exceeded(folder, files))
    yield from problems("limits", [label + text for text in odd], found)


def _integrity(folder: Path, label: str, progress: Progress, witnesses: list[Witness]) -> Iterator[Line]:
    witness = Witness(folder, progress)
    witnesses.append(witness)
    findings = examine(witness)
    found = findings.problems or witness.problems
    if not found:
        _ = witness.evidence  # raises where a live writer has added rows meanwhile
    yield from problems("integrity", [label + text for text in found], label + SOUND)
    yield from (Line("PASS", "integrity", label + _addressed(note, folder)) for note in findings.notes)


def _addressed(note: str, folder: Path) -> str:
    """Put the run's path into the command that a remark gives."""
    return note.replace(" RUN", f" {shlex.quote(os.fspath(folder))}")


def _kept(
    report: Report,
    folder: Path,
    witness: Witness,
    kept: Sequence[str],
    loaded: Sequence[tuple[int, Checkpoint]],
    sgd: bool,
) -> None:
    report.run("head", chain_heads.kept(folder, witness.segments, kept))
    for _, checkpoint in loaded:
        for state in checkpoint.states:
            name = checkpoint.path.name
            report.run("head", chain_heads.of_checkpoint(folder, witness.header, witness.segments, state, name))
    if loaded:
        report.run("checkpoints", _checkpoints(witness, loaded, sgd))


def _checkpoints(witness: Witness, loaded: Sequence[tuple[int, Checkpoint]], sgd: bool) -> Iterator[Line]:
    yield from snapshots(witness.run, loaded)
    yield from against_checkpoints(witness.run, loaded, sgd)
