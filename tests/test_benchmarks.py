"""The report on benchmarks: what counts as slower, what is kept on the page, and one benchmark really run.

The others take too long for a test: it is looked whether they find what they import of this project.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from tests.helpers.programs import load

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def report(tmp_path, monkeypatch):
    module = load(ROOT / "benchmarks" / "report.py")
    monkeypatch.setattr(module, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(module, "PICTURE", tmp_path / "img" / "benchmarks.svg")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


BEFORE = {
    "sketch: a": {"ratio": 2.0, "seconds": 1.0},
    "peers: b": {"ratio": 3.0},
    "torch: c": {"share": 0.01, "peer_x_histc": 4.0},
}


def test_a_ratio_of_ours_that_grew_is_a_change(report):
    now = {title: {name: 1.6 * value for name, value in named.items()} for title, named in BEFORE.items()}
    assert report.changes(BEFORE, now) == {
        "sketch: a": "sketch: a, ratio: 2 -> 3.2",
        "torch: c": "torch: c, share: 0.01 -> 0.016",
    }
    assert report.changes(BEFORE, now, tolerance=1.7) == report.changes(BEFORE, BEFORE) == {}
    assert report.better(now, BEFORE)["sketch: a"] == {"ratio": 2.0, "seconds": 1.6}


def test_the_page_keeps_the_figures_of_both_modes(report):
    figures = {"full": BEFORE, "quick": {"sketch: a": {"ratio": 1.0}}}
    text = report.page(figures, {"full": {}, "quick": {}}, report.machine(), ["bench_x: exit status 1"])
    report.PAGE.write_text(text)
    assert report.committed() == figures
    assert "## Not measured" in text
    report.picture(BEFORE, report.PICTURE)
    drawn = report.PICTURE.read_text()
    assert drawn.count("#4477aa") == 2  # ours: a ratio and a share
    assert drawn.count("#ccbb44") == 2  # the peers


def run(report, monkeypatch, *options, found):
    monkeypatch.setattr(sys, "argv", ["report.py", *options])
    monkeypatch.setattr(report, "run", lambda patterns, quick, timeout: (found, []))
    monkeypatch.setattr(report, "suite", lambda: ["bench_sketch"])
    with pytest.raises(SystemExit) as end:
        report.main()
    return end.value.code


def test_check_says_when_something_got_slower(report, monkeypatch, capsys):
    assert run(report, monkeypatch, "--quick", "--check", found=BEFORE) == 3
    assert run(report, monkeypatch, "--quick", "--write", found=BEFORE) == 0
    assert run(report, monkeypatch, "--quick", "--check", found=BEFORE) == 0
    slow = BEFORE | {"sketch: a": {"ratio": 9.0}}
    capsys.readouterr()
    assert run(report, monkeypatch, "--quick", "--check", found=slow) == 1
    assert "slower: sketch: a, ratio: 2 -> 9" in capsys.readouterr().out
    assert run(report, monkeypatch, "--quick", "--check", "--tolerance", "5", found=slow) == 0
    assert report.committed()["quick"] == BEFORE  # a check writes nothing


def test_every_file_of_benchmarks_is_in_the_suite_or_a_program(report, monkeypatch):
    monkeypatch.setattr(report, "ROOT", ROOT)
    assert {"bench_sketch", "bench_peers", "bench_audit", "bench_torch"} <= set(report.suite())
    assert "bench_kill" not in report.suite()


def is_there(module, name):
    """Whether a module of this project has this name, or a module of this name inside."""
    found = importlib.import_module(module)
    return hasattr(found, name) or (hasattr(found, "__path__") and importlib.util.find_spec(f"{module}.{name}"))


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_what_a_benchmark_imports_of_this_project_is_there(path):
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    own = [node for node in imports if node.module.split(".")[0] in ("gradlog", "tests")]
    if any(".torch." in node.module for node in own):
        pytest.importorskip("torch")
    assert not [f"{node.module}.{x.name}" for node in own for x in node.names if not is_there(node.module, x.name)]


def test_a_name_that_is_gone_is_found_out():
    assert is_there("gradlog.analysis.streaming", "schedule")
    assert not is_there("tests.helpers.known", "KNOWN")


@pytest.mark.slow
def test_a_benchmark_really_runs(report, monkeypatch):
    monkeypatch.setattr(report, "ROOT", ROOT)
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:  # the benchmark is no worker of this run
        monkeypatch.delenv(name)
    figures, failed = report.run(["bench_sketch"], True, 240)
    assert failed == []
    assert all(named["ratio_to_dot"] > 0 for named in figures.values())
    assert len(figures) == 4
