"""The examples in docstrings do what they show. Those of the integrations are left out: they need the frameworks."""

from __future__ import annotations

import doctest
import tempfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TREES = {"gradlog": "gradlog", "analysis": "gradlog.analysis", "cli": "gradlog.cli"}


def modules() -> list[str]:
    """Names of the modules with examples."""
    found = []
    for folder, package in TREES.items():
        for file in (ROOT / folder).rglob("*.py"):
            place = file.relative_to(ROOT / folder).with_suffix("").parts
            if ">>>" in file.read_text("utf-8") and place[0] not in ("integrations", *TREES):
                found.append(".".join([package, *place]).removesuffix(".__init__"))
    return sorted(found)


@pytest.mark.parametrize("name", modules())
def test_examples_show_what_is_true(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder().find(import_module(name)):
        runner.run(test, out=told.append)
    assert not told
