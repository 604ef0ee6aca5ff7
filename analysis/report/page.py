"""The page: sections of figures and tables for one run or several, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING

from gradlog.analysis.common.recorded import recorded
from gradlog.analysis.common.text import printable
from gradlog.analysis.report import cells, figures, palette, tables
from gradlog.analysis.report.figure import WIDE, Figure
from gradlog.analysis.report.figures import comparison
from gradlog.analysis.report.study import Study
from gradlog.analysis.report.svg import svg
from gradlog.analysis.results.findings import findings

if TYPE_CHECKING:
    from jinja2 import Environment

    from gradlog.analysis.comparison.find import Failure
    from gradlog.analysis.comparison.replicates import Replicates


MOST = 12
"""Runs up to which each has a card and figures of its own."""

CHAPTERS: tuple[tuple[figures.SectionName, str], ...] = (
    ("runs", "The runs at a glance"),
    ("configurations", "What differs between configurations, beyond their seeds?"),
    ("groups", "Which parts of the model dominate, and when?"),
    ("events", "Did something odd happen, and where?"),
    ("training", "What training did meanwhile"),
    ("predictability", "How predictable is the next gradient?"),
    ("directions", "Which way does training go?"),
    ("updates", "What do the steps make of the gradient?"),
    ("noise", "Is the batch large enough?"),
    ("dimension", "How many directions hold the changes?"),
    ("bounds", "What the path length bounds"),
)
"""Name and title of each section, in reading order; sections without figures and tables are left out."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Drawings of one kind, one for each run or one of all, and how to read them."""

    name: str
    figures: Sequence[Figure]
    caption: str

    @property
    def drawings(self) -> list[tuple[str, str]]:
        """Names and elements of the figures, as the page has them."""
        return [(self.id(i), svg(figure)) for i, figure in enumerate(self.figures)]

    def id(self, i: int) -> str:
        """Name of a figure, unique on the page."""
        return f"figure-{self.name}-{i + 1}" if len(self.figures) > 1 else f"figure-{self.name}"

    @property
    def wide(self) -> bool:
        """Whether they span two columns."""
        return self.figures[0].width >= WIDE

    @property
    def reading(self) -> str:
        """How to read them, with what is to be said of these ones."""
        return "".join([self.caption, *dict.fromkeys(figure.note for figure in self.figures)])


@dataclasses.dataclass(frozen=True)
class Section:
    """A chapter of the page."""

    id: str
    title: str
    drawn: Sequence[Drawn]
    tables: Sequence[cells.Table]
    columns: int = 2

    @property
    def rows(self) -> list[tuple[bool, list[Drawn]]]:
        """Figures that share a grid: runs of wide and of narrow ones."""
        return [(wide, list(found)) for wide, found in groupby(self.drawn, key=lambda f: f.wide)]


def sections(studies: Sequence[Study], found: Replicates | None = None) -> list[Section]:
    """All chapters that have something to show; ``found``: configurations over seeds."""
    drawn: dict[figures.SectionName, list[Drawn]] = {name: [] for name, _ in CHAPTERS}
    if found is not None:
        means = [comparison.configurations(found, p) for p in found.configurations[0].kappa]
        drawn["configurations"].append(Drawn("configurations", means, comparison.CAPTION))
    for chart in figures.charts(many=len(studies) > MOST):
        drawn[chart.section].append(Drawn(chart.name, list(chart.figures(studies)), chart.caption))
    listed = _tables(studies, found)
    made = [
        Section(name, title, [d for d in drawn[name] if d.figures], [t for t in listed.get(name, ()) if t],
                3 if name == "training" and len(studies) == 1 else 2)
        for name, title in CHAPTERS
    ]  # fmt: skip
    return [section for section in made if section.drawn or section.tables]


def _tables(studies: Sequence[Study], found: Replicates | None) -> dict[str, list[cells.Table | None]]:
    """Tables by section."""
    many = len(studies) > MOST
    return {
        "configurations": [tables.difference_table(found), tables.configuration_table(found)],
        "runs": [tables.overview(studies)] if len(studies) > 1 else [],
        "events": [tables.event_table(studies)],
        "predictability": [tables.kappa_table(studies), None if many else tables.usual_table(studies)],
        "dimension": [tables.rank_table(studies)],
        "groups": [] if many else [tables.group_table(studies)],
        "bounds": [tables.stationarity_table(studies), tables.regret_table(studies)],
    }


def facts(study: Study) -> list[tuple[str, str]]:
    """List what was run: label and value."""
    known, exact = recorded(study.run.info), study.run.header.sketch.exact
    found = {
        "steps": known["steps"],
        "gradient": known["gradient"],
        "model": f"{known['model']}, {known['groups']}",
        "sketch": f"none, {known['sketch']}" if exact else known["sketch"],
        "status": known["status"],
        **{str(k): str(v) for k, v in study.run.info["provenance"].get("notes", {}).items()},
    }
    return [(printable(k), printable(v)) for k, v in found.items() if v]


def provenance(study: Study) -> list[tuple[str, str]]:
    """List where the numbers come from: label and value."""
    known, svd = recorded(study.run.info), study.document["svd"]
    found = {"path": known["path"], "recorded": known["created"]}
    found |= {label: known[label] for label in ("uuid", "format", "command", "optimizer", "code", "versions")}
    found |= {label: known[label] for label in ("platform", "segments")}
    passes = f"{svd['passes']} pass{'' if svd['passes'] == 1 else 'es'}"
    found |= {
        "analyzed by": f"gradlog {study.result.attrs['gradlog_version']}; burn-in {study.document['burn_in']}",
        "spectrum": f"{svd['reason']}; {passes}, seed {svd['seed']}, unseen energy {svd['certificate']:.1e}",
        "norms": known["norms"],
    }
    return [(k, printable(v)) for k, v in found.items() if v]


def _findings(study: Study, chapters: Sequence[Section]) -> list[tuple[str, str, str]]:
    """Sentences of the first screen in order of importance, each with the id and the title of its figure or ""."""
    said = findings(study.document)
    return [(printable(finding.text), *_shown(finding.figure, study.label, chapters)) for finding in said]


def _shown(name: str, label: str, chapters: Sequence[Section]) -> tuple[str, str]:
    """Id and title of the figure of this name about a run, or about all of them; empty where there is none."""
    for drawn in (drawn for section in chapters for drawn in section.drawn if drawn.name == name):
        for i, figure in enumerate(drawn.figures):
            if figure.run in ("", label):
                return drawn.id(i), figure.title.partition("\n")[0].partition(" · ")[0]
    return "", ""


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
    script, chapters = _asset("script.js"), sections(studies, found)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
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
                    "findings": _findings(s, chapters),
                    "warnings": [printable(w) for w in json.loads(s.result.attrs["warnings"])],
                    "provenance": provenance(s),
                }
                for s in studies
            ],
            sections=chapters,
            failed=[printable(f.error if f.error.startswith(f.path) else f"{f.path}: {f.error}") for f in failed],
            many=len(studies) > MOST,
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
