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
        ([], "RUN..."),
    ],
)
def test_wrong_usage(call, make_run, args, word):
    shown = call("report", *([make_run()] if args else []), *args)
    assert (shown.code, shown.out) == (2, "")
    assert word in shown.err


def test_a_bad_run_alone_leaves_no_page(call, tmp_path):
    target = tmp_path / "page.html"
    shown = call("report", tmp_path / "nothing.zarr", "-o", target)
    assert shown.code == 3
    assert shown.err.count("\n") == 1
    none = call("report", tmp_path / "nothing.zarr", tmp_path / "neither.zarr", "-o", target)
    assert (none.code, none.err.count("\n")) == (3, 1)
    assert not target.exists()


def test_an_archive_is_expanded_and_a_bad_run_in_it_is_named(call, make_run, tmp_path):
    for i in range(3):
        make_run(steps=50 + i, name=f"runs/walk{i}.zarr")
    bad = tmp_path / "runs" / "walk1.zarr"
    next((bad / "seg-000000-r0000" / "sketch").glob("c.1*")).unlink()
    target = tmp_path / "page.html"
    shown = call("report", tmp_path / "runs", "-o", target)
    assert (shown.code, shown.out) == (1, f"{target}\n")
    assert shown.err.startswith(f"gradlog: {bad}")
    assert shown.err.count("\n") == 1
    text = target.read_text()
    assert "Not in this report" in text
    assert "<bdi>walk0</bdi>" in text
    assert "<bdi>walk2</bdi>" in text
    assert "<bdi>walk1</bdi>" not in text
    assert call("report", f"{tmp_path}/runs/walk[02].zarr", "-o", target, "--force").code == 0
    assert "Not in this report" not in target.read_text()


def test_steps_of_a_page(call, make_run, tmp_path):
    target = tmp_path / "page.html"
    assert call("report", make_run(), make_run(name="b.zarr"), "--steps", "10:29", "-o", target).code == 0
    assert target.read_text().count("<bdi>20 (10 to 29)</bdi>") == 2
    assert call("report", make_run(name="c.zarr"), "--steps", "25:", "-o", target, "--force").code == 0
    assert "<bdi>15 (25 to 39)</bdi>" in target.read_text()
    for wrong in ("5", "9:3", "-3:4", "a:b"):
        assert call("report", tmp_path / "c.zarr", f"--steps={wrong}").code == 2
