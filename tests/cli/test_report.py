"""``gradlog report``: where the page goes, and what is refused."""

from __future__ import annotations

import pytest


def test_a_page_about_two_runs(call, make_run, tmp_path):
    target = tmp_path / "page.html"
    shown = call("report", make_run(), make_run(steps=60, name="other.zarr"), "-o", target, "--title", "Two walks")
    assert (shown.code, shown.out, shown.err) == (0, f"{target}\n", "")
    text = target.read_text()
    assert "<h1>Two walks</h1>" in text
    assert "<bdi>other</bdi>" in text
    before = target.stat().st_mtime_ns
    again = call("report", tmp_path / "run.zarr", "-o", target)
    assert (again.code, again.out) == (1, "")
    assert again.err == f"gradlog: {target} exists; --force replaces it\n"
    assert target.stat().st_mtime_ns == before
    assert call("report", tmp_path / "run.zarr", "-o", target, "--force").code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.zarr", "page.html", "run.zarr"]


def test_options_reach_the_page(call, make_run, tmp_path):
    target = tmp_path / "page.html"
    args = ("--predictor", "best-ema", "--eps", "0.3", "--burn-in", "5", "-o", target)
    assert call("report", make_run(steps=60), *args).code == 0
    text = target.read_text()
    assert "best-ema (beta " in text
    assert ">0.3<" in text
    assert "burn-in 5" in text


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["-o", "page.pdf"], ".html"),
        (["--predictor", "oracle"], "--predictor"),
        (["--eps", "2"], "--eps"),
        ([], "RUNS"),
    ],
)
def test_wrong_usage(call, make_run, args, word):
    shown = call("report", *([make_run()] if args else []), *args)
    assert (shown.code, shown.out) == (2, "")
    assert word in shown.err


def test_a_bad_run_leaves_no_page(call, make_run, tmp_path):
    target = tmp_path / "page.html"
    shown = call("report", make_run(), tmp_path / "nothing.zarr", "-o", target)
    assert shown.code == 3
    assert shown.err.count("\n") == 1
    assert not target.exists()
