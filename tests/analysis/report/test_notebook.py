"""What a notebook shows of a run, and the example notebook run from top to bottom."""

from __future__ import annotations

import ast
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gradlog.analysis import open_run
from gradlog.analysis.reading.rows import RowSource

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def test_a_run_shows_itself_without_reading_the_sketch(run_path, monkeypatch):
    def refuse(*_args, **_more):
        raise AssertionError("the sketch was read")

    monkeypatch.setattr(RowSource, "read", refuse)
    html = open_run(str(run_path))._repr_html_()
    for word in ("120 (0 to 119)", "NaN or inf in 1 step", "fold-hash/1, k = 8", "loss, lr", "3: g0, g1, g2"):
        assert word in html


def test_hostile_text_stays_text_in_a_notebook(hostile_path):
    html = open_run(str(hostile_path))._repr_html_()
    tags = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.add(tag)
    parser.feed(html)
    assert tags == {"div", "strong", "table", "tr", "th", "td", "bdi"}
    assert "\x00" not in html
    assert "\u202e" not in html


def test_an_empty_run_shows_itself(tmp_path):
    import numpy as np

    from tests.helpers import stores

    run = open_run(str(stores.write_run(tmp_path / "empty.zarr", np.empty((0, 1, 4)))))
    assert ">none yet<" in run._repr_html_()


def cells():
    """Source of the code cells, without the lines that only Jupyter understands."""
    found = [c["source"] for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    return ["".join(line for line in "".join(s).splitlines(True) if not line.startswith("%")) for s in found]


@pytest.mark.slow
def test_the_example_notebook_runs(monkeypatch):
    """Cell by cell in the notebook's folder, as a kernel does, the last expression of each evaluated to be shown."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.close("all")  # those of other tests
    monkeypatch.chdir(NOTEBOOK.parent)
    space: dict[str, object] = {}
    shown = []
    for source in cells():
        body = ast.parse(source).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), space)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), space))
    assert len(plt.get_fignums()) == 2
    plt.close("all")
    assert hasattr(shown[0], "_repr_html_")
    assert len(shown[-1]) == 5


def test_the_notebook_is_stored_without_output():
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
