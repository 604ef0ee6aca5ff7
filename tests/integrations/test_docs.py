"""The pages' Python blocks run, in order, as a reader would paste them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(p for p in DOCS.glob("howto-*.md") if "```python" in p.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_blocks(tmp_path, monkeypatch, page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    needs = set(re.findall(r"^(?:import|from) (torch|jax|optax)\b", "\n".join(blocks), re.MULTILINE))
    if any(importlib.util.find_spec(name) is None for name in needs):
        pytest.skip(f"needs {', '.join(sorted(needs))}")
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), scope)
    assert list(tmp_path.glob("*.zarr"))
