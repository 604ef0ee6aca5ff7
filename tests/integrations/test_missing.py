"""Without its framework, an integration says which command installs it."""

from __future__ import annotations

import importlib
import sys

import pytest

from gradlog.errors import MissingDependencyError

PARTS = {"transformers": "transformers", "lightning": "lightning", "optax": "optax", "keras": "keras"}


@pytest.mark.parametrize(("module", "package"), PARTS.items())
def test_message(monkeypatch, module, package):
    name = f"gradlog.integrations.{module}"
    for loaded in [m for m in sys.modules if m == package or m.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "jax" if module == "optax" else package, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'gradlog-zarr\[{module}\]'"):
        importlib.import_module(name)
