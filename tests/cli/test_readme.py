"""The README's code runs and its output is what the command prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
OUTPUT = re.compile(r"<!-- output of: gradlog (.*?)(?: \| head -n (\d+))? -->\n```text\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]\d+)?")


@pytest.fixture
def training():
    """A model, its optimizer and a loop, as a reader has them."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(20, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train():
        for _ in range(60):
            x = torch.randn(32, 20)
            optimizer.zero_grad()
            (model(x) - x.sum(dim=1, keepdim=True)).square().mean().backward()
            optimizer.step()

    return {"model": model, "optimizer": optimizer, "train": train}


def test_python_blocks_run_around_a_training(tmp_path, monkeypatch, capsys, training):
    """The README records ``run.zarr``; the page about the output reads it."""
    monkeypatch.chdir(tmp_path)
    output = (ROOT / "docs" / "reading-the-output.md").read_text()
    blocks = [re.findall(r"```python\n(.*?)```", text, re.DOTALL) for text in (README, output)]
    assert list(map(len, blocks)) == [1, 1]
    for (block,) in blocks:
        exec(compile(block, "page", "exec"), dict(training))
    assert "ema(0.9)" in capsys.readouterr().out


@pytest.mark.parametrize("page", [p for p in PAGES if "<!-- output of:" in p.read_text()], ids=lambda page: page.name)
def test_the_output_shown_is_real(call, monkeypatch, page):
    monkeypatch.chdir(ROOT)
    shown_blocks = OUTPUT.findall(page.read_text())
    assert shown_blocks
    for command, head, shown in shown_blocks:
        lines = call(*shlex.split(command)).out.splitlines()
        printed = "\n".join(lines[: int(head)] if head else lines)
        assert NUMBER.sub("#", shown).split() == NUMBER.sub("#", printed).split()
        here, there = (list(map(float, NUMBER.findall(text))) for text in (shown, printed))
        assert here == pytest.approx(there, rel=0.02, abs=0.002)


def test_the_readme_fits_into_100_columns():
    assert not [line for line in README.splitlines() if len(line) > 100]


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target
    assert all(p.stat().st_size < 200_000 for p in (ROOT / "docs" / "img").iterdir())


def test_nobody_is_told_to_install_the_namesake():
    wrong = re.compile(r"pip install (?:-\S+ )*gradlog(?![-\w])")
    assert wrong.search("pip install -U gradlog")
    for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*.py"), ROOT / "CHANGELOG.md"):
        assert not wrong.search(path.read_text()), path
