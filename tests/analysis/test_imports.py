"""What an answer does not need is not loaded for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WINGS = """
import importlib, pkgutil, sys
for wing in ("measures", "spectrum"):
    package = importlib.import_module(f"gradlog.analysis.{wing}")
    modules = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    for name in modules:
        importlib.import_module(name)
    print(wing, len(modules) > 5, *({"zarr", "dask", "xarray", "distributed"} & set(sys.modules)))
"""

ANSWER = """
import sys
from gradlog.cli import main
try:
    main(["analyze", sys.argv[1], "--window", "100", "--no-cache", "-q"])
finally:
    print(*({"pandas", "xarray", "matplotlib", "numba"} & set(sys.modules)), file=sys.stderr)
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)


def test_the_wings_of_mathematics_need_no_zarr_dask_or_xarray() -> None:
    assert run(WINGS).stdout.splitlines() == ["measures True", "spectrum True"]


def test_an_analysis_on_the_terminal_loads_no_table_and_no_figure() -> None:
    done = run(ANSWER, str(Path(__file__).parents[2] / "sample_logs" / "mlp_wine_exact.zarr"))
    assert "in time, by window of steps" in done.stdout
    assert done.stderr == "\n"
