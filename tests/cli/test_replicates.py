"""Configurations over seeds in every form in which they are shown."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

import gradlog
from gradlog.analysis.comparison import tables
from gradlog.analysis.comparison.compare import compare, to_document


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Six short runs of two made-up optimizers whose gradients have different memory."""
    folder = tmp_path_factory.mktemp("seeds")
    for name, memory in (("=calm", 0.6), ("wild", -0.3)):
        for seed in range(3):
            rng, gradient = np.random.default_rng([seed, len(name)]), np.zeros(100)
            notes = {"optimizer": name, "seed": seed}
            with gradlog.open(folder / f"{name[-4:]}-{seed}.zarr", like=gradient, k=32, seed=seed, notes=notes) as log:
                for _ in range(80):
                    gradient = memory * gradient + rng.standard_normal(100)
                    log.step(gradient)
    return sorted(folder.iterdir())


def test_every_form_holds_the_same_numbers(runs, call, tmp_path):
    found = compare(runs, ["last"], group_by=["optimizer"])
    document = to_document(found)["replicates"]
    json.dumps(document, allow_nan=False)
    mean = document["configurations"][0]["kappa"]["last"]
    (difference,) = document["differences"]
    assert difference["sentence"].startswith("=calm - wild, last: -")
    assert difference["high"] < 0
    for text in (tables.markdown(found), tables.latex(found)):
        assert f"{mean['value']:.3f}" in text
        assert "paired seeds" in text
    lines = list(csv.DictReader(io.StringIO(tables.configurations_csv(found.replicates))))
    assert lines[0]["configuration"] == "'=calm"  # a spreadsheet would compute it
    assert float(lines[0]["kappa"]) == mean["value"]
    assert float(lines[2]["p"]) == difference["p"]
    shown = call("compare", *runs, "--predictor", "last")
    assert shown.code == 0
    assert "optimizer==calm - optimizer=wild, last:" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    picture = tmp_path / "seeds.png"
    assert call("compare", *runs, "--group-by", "optimizer", "--plot", picture).code == 0
    assert picture.stat().st_size > 10_000
    wrong = call("compare", *runs, "--group-by", "task")
    assert wrong.code != 0
    assert "no note 'task' to group by" in wrong.err


def test_the_report_has_a_chapter_on_configurations(runs, tmp_path, call):
    target = tmp_path / "page.html"
    assert call("report", *runs, "--group-by", "optimizer", "-o", target).code == 0
    page = target.read_text()
    assert "What differs between configurations" in page
    assert "=calm − wild" in page
    alone = tmp_path / "alone.html"
    assert call("report", runs[0], "-o", alone).code == 0
    assert "What differs between configurations" not in alone.read_text()
