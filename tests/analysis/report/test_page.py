"""The page as a file: well formed, self-contained, harmless, and right."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from gradlog.analysis import analyze, html_report, open_run, to_json
from gradlog.analysis.comparison.side_by_side import Phases, labels
from gradlog.analysis.measures.predictors.registry import usual
from gradlog.analysis.report import study
from gradlog.analysis.report.page import page
from tests.helpers import stores

SAMPLE = Path(__file__).resolve().parents[3] / "sample_logs" / "mlp_wine_exact.zarr"
VOID = {"meta", "br", "img", "input", "link", "hr"}
KNOWN = {
    *("html", "head", "meta", "title", "style", "body", "header", "div", "p", "h1", "h2", "h3", "bdi", "button", "nav"),
    *(
        "a",
        "main",
        "section",
        "article",
        "ul",
        "li",
        "dl",
        "dt",
        "dd",
        "figure",
        "figcaption",
        "span",
        "small",
        "table",
        "details",
        "summary",
        "form",
        "label",
        "input",
    ),
    *("thead", "tbody", "tr", "th", "td", "script", "svg", "path", "circle", "rect", "text", "g"),
}
NAMES = ["one", "two", "hostile"]


class Outline(HTMLParser):
    """Elements with their attributes, and what is wrong with their nesting."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.wrong: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        self.wrong += [f"<{tag}> is never closed" for tag in self.stack]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        self.texts.append((self.stack[-1] if self.stack else "", data))


def outline(pages, name):
    return Outline(pages[name].read_text())


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_well_formed(pages, name):
    found = outline(pages, name)
    assert found.wrong == []
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {tag for tag, _ in found.elements} <= KNOWN
    targets = {a["href"] for tag, a in found.elements if tag == "a"}
    assert targets <= {f"#{i}" for i in ids}


def test_the_outline_sees_mistakes():
    assert Outline("<p><b></p>").wrong
    assert Outline("<div>").wrong


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched(pages, name):
    text = pages[name].read_text()
    found = outline(pages, name)
    assert "http-equiv" in text
    for tag, attributes in found.elements:
        assert not {"src", "srcset", "action", "poster", "data", "xlink:href"} & set(attributes), tag
        assert not any(key.startswith("on") for key in attributes)
        assert tag == "a" or "href" not in attributes
    style = "".join(data for tag, data in found.texts if tag == "style")
    assert not re.search(r"url\(|@import|https?:", style)
    scripts = [data for tag, data in found.texts if tag == "script"]
    assert len(scripts) == 1
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|WebSocket|import\(", scripts[0])
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def unbalanced(script: str) -> list[str]:
    """Brackets that do not pair up outside strings and comments."""
    bare = re.sub(r"//[^\n]*|/\*.*?\*/", "", script, flags=re.DOTALL)
    while re.search(r"`[^`]*`|\"[^\"\n]*\"|'[^'\n]*'", bare):
        bare = re.sub(r"`[^`]*`|\"[^\"\n]*\"|'[^'\n]*'", "", bare)
    open_brackets: list[str] = []
    for c in bare:
        if c in "([{":
            open_brackets.append({"(": ")", "[": "]", "{": "}"}[c])
        elif c in ")]}" and (not open_brackets or open_brackets.pop() != c):
            return [c]
    return open_brackets + re.findall("[`\"']", bare)


def test_the_script_is_in_one_piece(pages):
    script = next(data for tag, data in outline(pages, "one").texts if tag == "script")
    assert script.startswith('"use strict";')
    assert unbalanced(script) == []
    assert unbalanced(script + "(") == [")"]
    assert unbalanced(script.replace("});", "}]);", 1)) != []


@pytest.mark.parametrize("name", NAMES)
def test_drawings_are_xml_without_odd_numbers(pages, name):
    drawings = re.findall(r"<svg.*?</svg>", pages[name].read_text(), re.DOTALL)
    assert len(drawings) >= 7
    for drawing in drawings:
        root = ET.fromstring(drawing)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        assert root.attrib["aria-label"]
        assert not re.search(r'="[^"]*\b(nan|inf)\b', re.sub('<title>.*?</title>|aria-label=".*?"', "", drawing))
        for text in root.iter("text"):
            assert -20 <= float(text.attrib["x"]) <= width
            assert 0 <= float(text.attrib["y"]) <= height


def test_hostile_text_stays_text(pages):
    text = pages["hostile"].read_text()
    assert "\x00" not in text
    assert "\u202e" not in text
    assert "\u200f" not in text
    assert "{{7*7}}" in text
    assert "&lt;/script&gt;&lt;img" in text
    assert "مرحبا" in text
    found = outline(pages, "hostile")
    assert not [tag for tag, _ in found.elements if tag in ("img", "b")]
    assert [tag for tag, _ in found.elements].count("script") == 1


def test_the_kappa_table_holds_the_numbers_of_the_analysis(pages):
    found = outline(pages, "one")
    cells = [data.strip() for tag, data in found.texts if tag in ("td", "bdi") and data.strip()]
    result = analyze(open_run(str(SAMPLE)), usual("report"))
    for p in ("last", "ema(0.9)", "trend"):
        at = cells.index(p)
        value = float(result["kappa"].sel(predictor=p))
        assert float(cells[at + 1]) == pytest.approx(value, rel=1e-3)
        assert cells[at + 3] == "exact"  # and has no error of a sketch
        assert float(cells[at + 6]) == pytest.approx(float(result["kappa_null"].sel(predictor=p)), rel=1e-3)


def test_every_side_of_a_bound_stands_over_its_interval():
    run = open_run(str(SAMPLE.with_name("tiny_sort_rmsprop.zarr")))
    cells = [
        data.strip() for _, data in Outline(html_report([run], predictors=["last", "trend"])).texts if data.strip()
    ]
    bounds = to_json(analyze(run, ["last", "trend"]))["bounds"]
    for title, kind, sides in (
        ("Bound on the mean squared norm", "stationarity", ("right", "ratio")),
        ("Bound on the regret", "regret", ("right", "ratio", "best_eta", "best")),
    ):
        at = cells.index("trend", cells.index(title)) + 2
        found = [float(x.replace("−", "-")) for cell in cells[at : at + 2 * len(sides)] for x in cell.split(" to ")]
        expected = [bounds[kind]["trend"][side + end] for side in sides for end in ("", "_low", "_high")]
        assert found == pytest.approx(expected, rel=1e-3)


def test_the_findings_speak_of_every_predictor(pages):
    said = " ".join(data for tag, data in outline(pages, "one").texts if tag == "li")
    assert f"Order effect on all {len(usual('report')[1:])} predictors: helps." in said


def test_each_finding_leads_to_the_figure_of_its_run(pages):
    for name, ending in (("one", ""), ("two", "-2")):
        text = pages[name].read_text()
        card = re.findall(r"<article.*?</article>", text, re.DOTALL)[-1]
        links = dict(re.findall(r'<a href="#([^"]*)">([^<]*)</a>', card))
        assert links["figure-kappas"] == "Kappa beside its shuffled value"
        assert links[f"figure-tail{ending}"].startswith("What the leading directions")
        assert f"figure-kappa_over_time{ending}" in links
    assert re.search(r'id="figure-kappa_over_time-2".*?class="run"[^>]*>mlp_wine_exact<', text, re.DOTALL)


def test_a_page_tells_its_story_in_order(pages):
    text = pages["two"].read_text()
    order = ["runs", "summary", "groups", "events", "training", "predictability", "dimension", "provenance"]
    assert [name for name in re.findall(r'<section id="(\w+)"', text) if name in order] == order


def test_non_finite_steps_are_marked_and_told(pages):
    text = pages["two"].read_text()
    assert "step 50: NaN or inf, left out" in text
    assert "1 non-finite rows left out" in text


def test_a_short_run_has_no_windows_but_a_page(tmp_path):
    rows = np.random.default_rng(0).standard_normal((5, 1, 4))
    text = html_report([stores.write_run(tmp_path / "short.zarr", rows)])
    assert Outline(text).wrong == []
    assert "Kappa over time" not in text
    assert "Loss" not in text


def test_runs_are_named_apart():
    assert labels(["a/run.zarr", "b/run.zarr"]) == ["a/run", "b/run"]
    assert labels(["run.zarr", "run.zarr"]) == ["run #1", "run #2"]
    assert labels(["s3://bucket/x.zarr/"]) == ["x"]


@pytest.mark.parametrize(("rows", "expected"), [(47, None), (48, 16), (400, 16), (100_000, 4166)])
def test_window_sizes(rows, expected):
    assert study.window_rows(rows) == expected


def test_progress_of_several_passes_never_goes_back():
    seen = []
    phases = Phases(lambda done, total: seen.append(done / total), 3)
    for total in (4, 7, 2):
        for done in range(total + 1):
            phases(done, total)
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_no_run_is_no_report():
    with pytest.raises(ValueError, match="at least one run"):
        html_report([])


def test_many_groups_are_cut_and_told(tmp_path):
    rows = np.random.default_rng(0).standard_normal((60, 230, 2))
    rows[:, 7] *= 0.01
    text = html_report([stores.write_run(tmp_path / "wide.zarr", rows)], predictors=["last"])
    assert "the 32 of 230 groups with the largest error" in text
    assert "(no interval) of the error of last" in text  # of two coordinates
    assert "Only the 200 groups of a run with the largest energy are listed." in text
    assert ">g7<" not in text
    assert text.count('<path fill-opacity="') % 32 == 0
    assert len(text.encode()) < 1_500_000


@pytest.mark.slow
def test_fifty_runs_share_their_figures(pages):
    text = pages["many"].read_text()
    found = Outline(text)
    assert found.wrong == []
    assert len(text.encode()) < 1_500_000
    assert text.count("<svg") == 5
    assert text.count('class="line s0 over"') == 5 * 8  # 50 runs, seven colours
    assert text.count("<title>run49</title>") == 5
    assert text.count("<details>") == 50
    assert "2 of 50" not in text


@pytest.mark.slow
def test_a_long_run_makes_a_small_page(tmp_path):
    rows = np.random.default_rng(0).standard_normal((100_000, 16, 2), np.float32)
    scalars = {"loss": np.linspace(3, 1, 100_000), "lr": np.full(100_000, 1e-3)}
    path = stores.write_run(tmp_path / "long.zarr", rows, chunk=2048, scalars=scalars)
    text = html_report([path])
    assert len(text.encode()) < 500_000
    assert ">g15<" in text


def test_a_rank_that_stays_open_is_not_drawn_as_known(tmp_path):
    """Flat noise in more columns than the randomized route looks at."""
    rows = np.random.default_rng(1).standard_normal((1100, 4, 400)).astype(np.float32)
    run = open_run(str(stores.write_run(tmp_path / "flat.zarr", rows, chunk=128)))
    found = study.study(run, "flat")
    low, high = (found.result[name].values for name in ("rank_low", "rank_high"))
    assert (low < high).all()
    assert (high <= 1600).all()
    text = page([found])
    assert re.search(r"certified \d+ to \d+", text)
    assert "lower bounds by the randomized route" in text
    assert "to open" not in text
    assert not re.search(r"certified[^<]*nan", text)


def test_every_small_chart_names_its_run_whole(tmp_path):
    names = [f"a_sweep_over_learning_rates_{i}_seed_{i}" for i in range(4)]
    for name in names:
        stores.write_run(tmp_path / f"{name}.zarr", np.random.default_rng(0).standard_normal((160, 2, 8)))
    text = html_report(sorted(tmp_path.iterdir()))
    drawn = re.findall(r'<text class="title"[^>]*>Kappa over time</text><text class="run"[^>]*>([^<]*)</text>', text)
    assert drawn == names


def test_learning_rates_far_apart_get_a_logarithmic_axis_that_a_warm_up_does_not_stretch(tmp_path):
    rows = np.random.default_rng(0).standard_normal((40, 2, 8))
    for rate in (1e-4, 1.0):
        warm = rate * np.minimum(1.0, np.arange(40) / 20)
        stores.write_run(tmp_path / f"{rate}.zarr", rows, scalars={"lr": warm})
    text = html_report(sorted(tmp_path.iterdir()))
    assert "learning rate, log scale" in text
    chart = re.search(r'aria-label="Learning rate by step.*?</svg>', text, re.DOTALL)[0]
    assert re.findall(r'class="tick"[^>]*text-anchor="end">([^<]*)<', chart)[0] == "10⁻⁵"


def test_a_band_is_explained_only_where_there_is_one(tmp_path):
    for steps in (40, 2000):
        rows = np.random.default_rng(0).standard_normal((steps, 1, 8))
        path = stores.write_run(tmp_path / f"{steps}.zarr", rows)
        assert ("The band spans" in html_report([path])) is (steps == 2000)
