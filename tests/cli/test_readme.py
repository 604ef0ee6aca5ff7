"""The README's code runs and its output is what the command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "ema(0.9)" in capsys.readouterr().out


def test_the_output_shown_is_real(call, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, shown = re.search(r"<!-- output of: gradlog (.*?) -->\n```text\n(.*?)```", README, re.DOTALL).groups()
    printed = call(*command.split()).out
    numbers = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]\d+)?")
    assert numbers.sub("#", shown).split() == numbers.sub("#", printed).split()
    here, there = (list(map(float, numbers.findall(text))) for text in (shown, printed))
    assert here == pytest.approx(there, rel=0.02, abs=0.002)


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target
    assert all(p.stat().st_size < 200_000 for p in (ROOT / "docs" / "img").iterdir())


def test_nobody_is_told_to_install_the_namesake():
    wrong = re.compile(r"pip install (?:-\S+ )*gradlog(?![-\w])")
    assert wrong.search("pip install -U gradlog")
    for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*.py"), ROOT / "CHANGELOG.md"):
        assert not wrong.search(path.read_text()), path
