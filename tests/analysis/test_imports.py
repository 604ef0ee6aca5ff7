"""The mathematics loads without what reads runs and labels results."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import importlib, pkgutil, sys
wing = importlib.import_module("gradlog.analysis.{wing}")
modules = [m.name for m in pkgutil.walk_packages(wing.__path__, wing.__name__ + ".")]
for name in modules:
    importlib.import_module(name)
print(len(modules), *({{"zarr", "dask", "xarray", "distributed"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("wing", ["measures", "spectrum"])
def test_a_wing_of_mathematics_needs_no_zarr_dask_or_xarray(wing: str) -> None:
    code = CODE.format(wing=wing)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *heavy = done.stdout.split()
    assert int(count) > 5
    assert heavy == []
