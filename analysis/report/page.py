"""The page: sections of figures and tables for one run or several, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING, Any

from gradlog.analysis.common.text import optimizer_in_words, printable
from gradlog.analysis.measures.predictors.registry import usual
from gradlog.analysis.report import charts as figures
from gradlog.analysis.report import charts_many, charts_over_time, charts_seeds, palette, sentences, tables
from gradlog.analysis.report.study import Study

if TYPE_CHECKING:
    from jinja2 import Environment

    from gradlog.analysis.comparison.find import Failure
    from gradlog.analysis.comparison.replicates import Replicates


@dataclasses.dataclass(frozen=True)
class Figure:
    """Drawings of one kind, a run each (or one of all), and how to read them."""

    name: str
    drawings: Sequence[str]
    wide: bool = False
    banded: bool = False

    @property
    def reading(self) -> str:
        """How to read it, in a sentence; of a band only where one is drawn."""
        return sentences.READINGS[self.name] + (sentences.BAND if self.banded else "")


@dataclasses.dataclass(frozen=True)
class Section:
    """A chapter of the page; empty figures and missing tables are left out."""

    id: str
    title: str
    figures: Sequence[Figure]
    tables: Sequence[tables.Table | None] = ()
    columns: int = 2

    @property
    def rows(self) -> list[tuple[bool, list[Figure]]]:
        """Figures that share a grid: runs of wide and of narrow ones."""
        drawn = [f for f in self.figures if f.drawings]
        return [(wide, list(found)) for wide, found in groupby(drawn, key=lambda f: f.wide)]


def sections(studies: Sequence[Study], found: Replicates | None = None) -> list[Section]:
    """All chapters in reading order; ``found``: configurations over seeds."""
    one = len(studies) == 1
    configurations = Section(
        "configurations",
        "What differs between configurations, beyond their seeds?",
        [Figure("configurations", charts_seeds.kappa_by_configuration(found, figures.width(studies)))],
        [charts_seeds.difference_table(found), charts_seeds.configuration_table(found)],
    )
    if len(studies) > charts_many.MOST:
        return [configurations, *_of_many(studies)]

    def each(name: str, draw: Callable[..., list[str]], *more: Any, wide: bool = False) -> Figure:
        return Figure(name, draw(studies, *more), wide)

    return [
        configurations,
        Section(
            "predictability",
            "How predictable is the next gradient?",
            [
                Figure("kappas", [figures.kappas(studies)], wide=not one),
                each("kappa_over_time", charts_over_time.kappa_over_time),
            ],
            [tables.kappa_table(studies)],
        ),
        Section(
            "training",
            "What training did meanwhile",
            [
                Figure(name, charts_over_time.training(studies, name), banded=charts_over_time.banded(studies, name))
                for name in ("loss", "norm", "lr")
            ],
            columns=3 if one else 2,
        ),
        Section(
            "dimension",
            "How many directions hold the changes?",
            [
                each("tail", figures.tail),
                each("spectrum", figures.spectrum),
                each("rank_over_time", charts_over_time.rank_over_time, wide=one),
            ],
            [tables.rank_table(studies)],
        ),
        Section(
            "groups",
            "Which parts of the model, and when?",
            [each("heat_map", charts_over_time.heat_map, wide=True)],
            [tables.group_table(studies)],
        ),
        Section(
            "bounds",
            "What the path length bounds",
            [],
            [tables.stationarity_table(studies), tables.regret_table(studies)],
        ),
    ]


def _of_many(studies: Sequence[Study]) -> list[Section]:
    kappas = [drawn for name in usual("windows")[:2] for drawn in charts_many.kappa(studies, name)]
    meanwhile = [drawn for name in ("loss", "norm") for drawn in charts_many.training(studies, name)]
    return [
        Section("runs", "The runs at a glance", [], [charts_many.overview(studies)]),
        Section(
            "predictability",
            "How predictable is the next gradient?",
            [Figure("all_kappa", kappas, wide=True)],
            [tables.kappa_table(studies)],
        ),
        Section("training", "What training did meanwhile", [Figure("all_training", meanwhile, wide=True)]),
        Section(
            "dimension",
            "How many directions hold the changes?",
            [Figure("all_tails", charts_many.tail(studies), wide=True)],
            [tables.rank_table(studies)],
        ),
        Section(
            "bounds",
            "What the path length bounds",
            [],
            [tables.stationarity_table(studies), tables.regret_table(studies)],
        ),
    ]


def facts(study: Study) -> list[tuple[str, str]]:
    """List what was run: label and value."""
    info = study.run.info
    origin = info["provenance"]
    sketch = (
        "none, the gradient itself"
        if info["kind"] == "exact/1"
        else f"{info['kind']}, k = {info['k']}, seed {info['seed']}"
    )
    steps = f"{info['steps']:,}, numbered {info['first_step']:,} to {info['last_step']:,}"
    found = {
        "steps": steps + (f", every {info['every']}" if info["every"] > 1 else ""),
        "gradient": f"{info['what']}, {info['stage']}",
        "model": f"{info['dimension']:,} numbers in {info['tensors']:,} tensors, {len(info['groups'])} groups",
        "sketch": sketch,
        "status": info["status"] + (f": {info['reason']}" if info["reason"] else ""),
        **{str(k): str(v) for k, v in origin.get("notes", {}).items()},
    }
    return [(printable(k), printable(v)) for k, v in found.items() if v]


def provenance(study: Study) -> list[tuple[str, str]]:
    """List where the numbers come from: label and value."""
    info, svd = study.run.info, study.document["svd"]
    origin = info["provenance"]
    git = origin.get("git", {})
    code = (
        f"{git['commit'][:12]}{', with uncommitted changes' if git.get('dirty') else ''}" if git.get("commit") else ""
    )
    passes = f"{svd['passes']} pass{'' if svd['passes'] == 1 else 'es'}"
    found = {
        "path": info["path"],
        "recorded": info["created"],
        "uuid": info["uuid"],
        "format": info["format"],
        "command": " ".join(map(str, origin.get("argv", []))),
        "optimizer": optimizer_in_words(origin),
        "code": code,
        "versions": ", ".join(f"{k} {v}" for k, v in origin.get("versions", {}).items()),
        "platform": origin.get("platform", ""),
        "segments": f"{len(info['segments']):,}, {info['ranks']} rank{'' if info['ranks'] == 1 else 's'}",
        "analyzed by": f"gradlog {study.result.attrs['gradlog_version']}; burn-in {study.document['burn_in']}",
        "spectrum": f"{svd['reason']}; {passes}, seed {svd['seed']}, unseen energy {svd['certificate']:.1e}",
        "norms": info["norms"],
    }
    return [(k, printable(v)) for k, v in found.items() if v]


def page(
    studies: Sequence[Study],
    title: str = "Gradient report",
    again: float | None = None,
    failed: Sequence[Failure] = (),
    found: Replicates | None = None,
) -> str:
    """Render the HTML of a report; everything a run says of itself is escaped.

    ``again``: seconds after which a browser loads it again; ``failed``: runs to name that could not be measured;
    ``found``: configurations over seeds.
    """
    script = _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shown = [s for s in sections(studies, found) if any(f.drawings for f in s.figures) or any(s.tables)]
    html: str = (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=printable(title),
            again=None if again is None else max(1, math.ceil(again)),
            studies=[
                {
                    "label": printable(s.label),
                    "facts": facts(s),
                    "findings": sentences.findings(s),
                    "warnings": [printable(w) for w in json.loads(s.result.attrs["warnings"])],
                    "provenance": provenance(s),
                }
                for s in studies
            ],
            sections=shown,
            failed=[printable(f.error if f.error.startswith(f.path) else f"{f.path}: {f.error}") for f in failed],
            many=len(studies) > charts_many.MOST,
            columns=figures.columns(studies) if len(studies) > 1 else None,
            light=palette.properties(palette.LIGHT),
            dark=palette.properties(palette.DARK),
            style=_asset("style.css"),
            script=script,
            policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
            made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    return html


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("gradlog.analysis.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters["plain"] = printable
    return found


def _asset(name: str) -> str:
    return files("gradlog.analysis.report").joinpath(name).read_text(encoding="utf-8")
