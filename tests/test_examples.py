"""The programs in ``examples/`` run as their first lines tell."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = Path(sys.executable).parent


def told(name: str) -> list[str]:
    """Words of the command in an example's docstring, without the optional ones."""
    (line,) = re.findall(r"^ *((?:python|gradlog) .*)$", (ROOT / "examples" / name).read_text(), re.MULTILINE)
    program, *words = shlex.split(re.sub(r"\[.*?\]", "", line))
    return [str(PROGRAMS / program), *words]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output", "says"),
    [
        ("quickstart.py", "run.zarr", "ema"),
        ("readme_figure.py", "figure.svg", ""),
        ("replay_wine.py", None, "replay"),
    ],
)
def test_an_example_runs_from_the_root_of_the_checkout(
    tmp_path: Path, name: str, output: str | None, says: str
) -> None:
    if "torch" in (ROOT / "examples" / name).read_text():
        pytest.importorskip("torch")
    made = [] if output is None else [str(tmp_path / output)]
    done = subprocess.run([*told(name), *made], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert all(Path(path).exists() for path in made)


def test_every_example_is_run() -> None:
    """Here, cell by cell in report/test_notebook.py, with fewer seeds in cli/test_site.py, or in test_paper.py."""
    names = {p.name for p in (ROOT / "examples").iterdir() if p.suffix in (".py", ".ipynb")} - {"__init__.py"}
    assert names == {"quickstart.py", "readme_figure.py", "replay_wine.py", "notebook.ipynb", "seeds.py"}
