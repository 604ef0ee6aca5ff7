"""Several runs in one table, the one of the paper: kappa of each predictor, with interval and shuffled baseline.

A table of kappas without the number of steps and the batch size compares nothing, so both are columns.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from gradlog.analysis.common.plain import plain
from gradlog.analysis.common.types import Progress
from gradlog.analysis.comparison.divergence import Cosines, cosines
from gradlog.analysis.comparison.find import Failure
from gradlog.analysis.comparison.replicates import Replicates, replicates
from gradlog.analysis.comparison.side_by_side import Measure, measure_archive, measure_runs
from gradlog.analysis.measures.predictors import usual
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results.analyze import analyze_cached
from gradlog.analysis.results.forms.json_document import Document, to_json
from gradlog.analysis.results.options import Caching, Keywords, Predictors
from gradlog.errors import SpecMismatchError, TooFewStepsError, UnusableInputError

SCHEMA = "gradlog.comparison/1"

Figures = Mapping[str, Mapping[str, float]]
"""Kappa by name and predictor."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One run.

    Attributes
    ----------
    label : str
    steps : int
    batch : float or None
        Mean of the logged batch size.
    document : dict
        ``to_json`` of its analysis, by windows if asked.
    warnings : list of str
        Those that bear on kappa.
    notes : dict
        What was noted at the start: optimizer, seed and the like.
    """

    label: str
    steps: int
    batch: float | None
    document: Document
    warnings: list[str]
    notes: Mapping[str, object]

    @property
    def kappa(self) -> Document:
        """Kappa entries by predictor."""
        found: Document = self.document["kappa"]
        return found


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes
    ----------
    predictors : tuple of str
    rows : tuple of Row
    reference : dict
        Published figures: kappa by name and predictor. They carry no interval.
    source : str
        Where those come from.
    cosines : Cosines or None
        Of the first two runs, if there are just two and their rows can be compared.
    note : str
        Why there are no cosines.
    failed : tuple of Failure
        Runs of an archive that could not be measured.
    replicates : Replicates or None
        Configurations over seeds, where some are asked for or found.
    """

    predictors: tuple[str, ...]
    rows: tuple[Row, ...]
    reference: Figures
    source: str
    cosines: Cosines | None
    note: str
    failed: tuple[Failure, ...] = ()
    replicates: Replicates | None = None


def compare(
    runs: Sequence[Run | str | os.PathLike[str]],
    predictors: Predictors = None,
    window: int | None = None,
    reference: str | os.PathLike[str] | None = None,
    *,
    group_by: Sequence[str] = (),
    replicate: str = "seed",
    cache: Caching = True,
    **options: Unpack[Keywords],
) -> Comparison:
    """Measure runs with the same question.

    Parameters
    ----------
    runs : sequence of Run or path
    predictors : names or objects
        Default: those of the paper's table.
    window : int, optional
        Also kappa by windows of so many rows, for aligned curves.
    reference : path, optional
        JSON file ``{"source": "...", "rows": {"name": {"last": 1.878, ...}, ...}}`` to show beside.
    group_by : sequence of str
        Notes that name a configuration; see ``replicates``. Default: all but ``replicate``.
    replicate : str
        Note that tells the runs of one configuration apart.
    cache : bool, path or Cache
        As of ``analyze``; whole results are kept as well.
    **options
        As of ``analyze``, such as ``burn_in``, ``steps_per_epoch``, ``scheduler`` and ``memory``, for every run.
        ``progress(done, total)`` counts the blocks of all runs.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        No run.
    UnusableInputError
        A reference that is not of this form, or a run without a note of ``group_by``.

    Examples
    --------
    >>> compare(["adamw.zarr", "sgd.zarr"]).rows[0].kappa["last"]["value"]       # doctest: +SKIP
    1.878
    """
    if not runs:
        raise ValueError("a comparison needs at least one run")
    published, progress = _read_reference(reference), options.pop("progress", None)
    measured = measure_runs(runs, _row(predictors, window, cache, options), progress)
    return _side_by_side(measured, [], published, group_by, replicate)


def compare_archive(
    paths: Sequence[str | os.PathLike[str]],
    predictors: Predictors = None,
    window: int | None = None,
    reference: str | os.PathLike[str] | None = None,
    *,
    group_by: Sequence[str] = (),
    replicate: str = "seed",
    cache: Caching = True,
    **options: Unpack[Keywords],
) -> Comparison:
    """``compare`` for every run at or under the paths; those that fail are in ``failed`` and stop no other.

    Parameters
    ----------
    paths : sequence of path
        Runs, folders or bucket URLs that hold runs at any depth, or patterns such as ``"runs/*.zarr"``.
    predictors, window, reference, group_by, replicate, cache, **options
        As of ``compare``.

    Raises
    ------
    NotARunError
        Not one run could be measured.
    UnusableInputError
        As of ``compare``.

    Examples
    --------
    >>> [row.label for row in compare_archive(["runs/*.zarr"]).rows]       # doctest: +SKIP
    ['adamw', 'sgd']
    """
    published, progress = _read_reference(reference), options.pop("progress", None)
    measured, failed = measure_archive(paths, _row(predictors, window, cache, options), progress)
    return _side_by_side(measured, failed, published, group_by, replicate)


def _row(predictors: Predictors, window: int | None, cache: Caching, options: Keywords) -> Measure[tuple[Run, Row]]:
    shown = usual("compare") if predictors is None else predictors

    def measure(run: Run, label: str, progress: Progress) -> tuple[Run, Row]:
        asked: Keywords = {"by_group": False, "null_rank": False, **options, "progress": progress}
        result = analyze_cached(run, cache=cache, predictors=shown, window=window, **asked)
        said = [w for w in json.loads(result.attrs["warnings"]) if not w.startswith("rank(")]
        return run, Row(label, run.n_steps, _batch(run), to_json(result), said, run.notes)

    return measure


def _side_by_side(
    measured: Sequence[tuple[Run, Row]], failed: Sequence[Failure], published: tuple[str, Figures],
    group_by: Sequence[str], replicate: str,
) -> Comparison:  # fmt: skip
    runs, rows = zip(*measured, strict=True)
    predictors = tuple(rows[0].kappa)
    found, note = _cosines(runs)
    source, figures = published
    configurations = replicates(rows, predictors, group_by, replicate)
    return Comparison(predictors, rows, figures, source, found, note, tuple(failed), configurations)


def _cosines(runs: Sequence[Run]) -> tuple[Cosines | None, str]:
    if len(runs) != 2:
        return None, ""
    try:
        return cosines(*runs), ""
    except (SpecMismatchError, TooFewStepsError) as error:
        return None, str(error)


def _batch(run: Run) -> float | None:
    for name in ("batch_size", "batch"):
        column = run.scalar_columns.get(name)
        if column is not None and np.isfinite(column).any():
            return float(np.nanmean(column))
    return None


def _read_reference(path: str | os.PathLike[str] | None) -> tuple[str, Figures]:
    """Source and rows of published figures."""
    if path is None:
        return "", {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = {str(n): {str(p): float(x) for p, x in row.items() if x is not None} for n, row in found["rows"].items()}
        return str(found.get("source", os.fspath(path))), rows
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        form = '{"source": "...", "rows": {"name": {"last": 1.878}}}'
        raise UnusableInputError(f"{os.fspath(path)}: not a reference of the form {form} ({error!r})") from error


def to_document(comparison: Comparison) -> Document:
    """Plain object for ``json.dumps(..., allow_nan=False)``; fields may be added, never renamed."""
    rows = [
        {"label": r.label, "path": r.document["run"]["path"], "steps": r.steps, "batch": r.batch, "kappa": r.kappa,
         "windows": [_curve(w) for w in r.document["windows"]], "warnings": r.warnings}
        for r in comparison.rows
    ]  # fmt: skip
    found: Document = {"schema": SCHEMA, "predictors": list(comparison.predictors), "runs": rows}
    if comparison.reference:
        found["reference"] = {"source": comparison.source, "rows": comparison.reference}
    c = comparison.cosines
    if c is not None:
        found["cosine"] = {
            "steps": c.steps.tolist(),
            **plain({name: getattr(c, name).tolist() for name in ("value", "low", "high")}),
            "first_difference": c.first_difference,
            "parted": c.parted,
        }
    if comparison.replicates is not None:
        found["replicates"] = _replicates(comparison.replicates)
    if comparison.failed:
        found["failed"] = [dataclasses.asdict(f) for f in comparison.failed]
    if comparison.note:
        found["note"] = comparison.note
    return found


def _replicates(found: Replicates) -> Document:
    configurations = [
        {"label": c.label, "runs": list(c.runs), "seeds": list(c.seeds),
         "kappa": {p: plain(dataclasses.asdict(m)) for p, m in c.kappa.items()}}
        for c in found.configurations
    ]  # fmt: skip
    differences = [dataclasses.asdict(d) | {"sentence": d.sentence} for d in found.differences]
    return {
        "group_by": list(found.by),
        "replicate": found.replicate,
        "configurations": configurations,
        "differences": differences,
        "warnings": list(found.warnings),
    }


def _curve(window: Document) -> Document:
    return {name: window[name] for name in ("first_step", "last_step", "kappa")}
