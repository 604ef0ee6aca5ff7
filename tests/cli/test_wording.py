"""Text on the terminal that a person copies or acts on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.cli import plain_text


def test_a_long_path_stays_in_one_piece():
    path = "/scratch/" + "a-long-name/" * 10 + "run.zarr"
    assert any(path in line for line in plain_text.facts([("command", f"python train.py --out {path} --epochs 3")]))
    assert any(path in line for line in plain_text.note(f"{path} was closed before its last rows were written"))


PINNED = sorted((Path(__file__).parents[1] / "golden_outputs").glob("*.out"))


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_what_commands_print_fits_80_columns_and_begins_with_15_lines_of_findings(path):
    commands = path.read_text().split("$ gradlog ")[1:]
    assert len(commands) == (1 if path.stem == "compare" else 4)
    for command, _, shown in (text.partition("\n") for text in commands):
        assert max(map(len, shown.splitlines())) <= 80
        if command.startswith("analyze"):
            first = shown.split("\n\n")[0].splitlines()
            assert len(first) <= 15
            assert any(line.startswith("  next: ") for line in first)


def test_how_the_spectrum_was_found_is_for_v_alone(call, make_run):
    path = make_run()
    assert "spectrum by" not in "".join(call("analyze", path).err)
    told = call("analyze", path, "-v")
    assert "spectrum by" in told.err
    assert "spectrum by" not in told.out


def test_a_run_without_loss_says_once_why_there_are_no_bounds(call, tmp_path):
    path = tmp_path / "run.zarr"
    rng = np.random.default_rng(0)
    with gradlog.open(path, like=np.zeros(50), k=16) as log:
        for _ in range(60):
            log.step(rng.standard_normal(50))
    assert "no bounds" not in call("analyze", path).out
    shown = call("analyze", path, "--full").out
    assert shown.count("no bounds") == 1
    assert "null" not in shown
    warnings = json.loads(call("analyze", path, "--json").out)["warnings"]
    assert sum("no bounds" in text for text in warnings) == 1
    assert sum("written as null" in text for text in warnings) == 1  # only who reads the JSON meets a null


WARNED = """
import gradlog, numpy as np, sys
{prepare}
log = gradlog.open(sys.argv[1], like=np.zeros(4), k=2)
log.step(np.zeros(4), loss="much")
log.close()
"""


def test_a_script_sees_a_warning_of_the_recorder_once(tmp_path):
    for i, prepare in enumerate(("", "import warnings; warnings.simplefilter('ignore')")):
        code = WARNED.format(prepare=prepare)
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"{i}.zarr")], capture_output=True, text=True, check=True
        )
        assert done.stderr.count(f"{i}.zarr: ") == 1 - i
