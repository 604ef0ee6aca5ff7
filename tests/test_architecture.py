"""What the pages about the code and the Makefile name is there: folders, modules and tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md")
PLACE = re.compile(r"`((?:gradlog|analysis|cli|tests|docs)/[\w./-]*)`")


def is_there(place: str) -> bool:
    """Whether a place is a folder, a file, or a module named without its suffix."""
    return (ROOT / place).exists() or (ROOT / f"{place}.py").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_place_that_the_page_names_is_there(page):
    places = PLACE.findall(page.read_text())
    assert len(places) > 10
    assert not [place for place in places if not is_there(place)]


def test_a_place_that_is_gone_is_found_out():
    assert is_there("gradlog/format")
    assert is_there("analysis/reading/run")
    assert not is_there("analysis/reading/nothing")


def test_every_test_that_the_quick_ones_leave_out_is_there():
    left_out = re.search(r"^LONGER := (.*?)(?<!\\)$", (ROOT / "Makefile").read_text(), re.DOTALL | re.MULTILINE)
    places = left_out[1].replace("\\", "").split()
    assert len(places) > 1
    assert [place for place in places if not (ROOT / "tests" / place).exists()] == []


def test_every_wing_is_on_the_page():
    wings = {p.parent.relative_to(ROOT) for top in ("gradlog", "analysis") for p in (ROOT / top).glob("*/__init__.py")}
    own = {wing for wing in wings if wing.parts[:2] not in (("gradlog", "analysis"), ("gradlog", "cli"))}
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert len(own) >= 15
    assert not [str(wing) for wing in own if f"| `{wing}` |" not in text]
