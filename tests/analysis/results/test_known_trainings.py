"""The table of known trainings against the page that tells of eight of them, and which are near a run."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from gradlog.analysis.results.known_trainings import KNOWN, nearest, of_run

PAGE = Path(__file__).resolve().parents[3] / "docs" / "paper.md"
KINDS = {"adamw": "AdamW", "sgdmom": "SGD", "rmsprop": "RMSprop"}


def rows(width: int) -> list[list[str]]:
    """Rows of the page's tables of so many columns."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "---" not in line]
    return [cells for line in lines if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == width]


def test_eight_of_them_are_those_of_the_page():
    known = {training.name: training for training in KNOWN}
    kappas = [(run, predictor, here) for run, predictor, _, here, *_ in rows(9) if predictor != "predictor"]
    assert len(kappas) == 8 * 4
    for run, predictor, here in kappas:
        assert f"{known[run].kappa[predictor]:.3f}" == here
    settings = [cells for cells in rows(10) if cells[2].isdigit()]
    assert len(settings) == 8
    for run, steps, batch, _, rank, *_ in settings:
        logged, shuffled = re.match(r"(\d+), shuffled (\d+)", rank).groups()
        training = known[run]
        assert [training.steps, training.batch] == [int(steps), int(batch)]
        assert [training.rank, training.shuffled] == [int(logged), int(shuffled)]
        assert training.optimizer == KINDS[run.rpartition("_")[2]]
    sizes = {int(size.replace(",", "")) for _, size, _ in rows(3) if size[0].isdigit()}
    assert {training.parameters for training in KNOWN[:8]} == sizes


def document(dimension: int, steps: int, optimizer: str) -> dict:
    return {"run": {"dimension": dimension, "steps": steps}, "bounds": {"inputs": {"optimizer": optimizer}}}


@pytest.mark.parametrize(
    ("run", "name", "said"),
    [
        ((90_000, 400, "torch.RMSprop"), "tiny_transformer_rmsprop", "optimizer, size and steps"),
        ((11_000_000, 250, "SGD, momentum 0.9"), "resnet18_sgdmom", "optimizer, size and steps"),
        ((7_000_000_000, 100_000, "Adam"), "gpt2_adamw", "optimizer"),
        ((130_000_000, 100_000, "Muon"), "gpt2_adamw", "size"),
        ((7_000_000_000, 100_000, ""), "gpt2_adamw", ""),
    ],
)
def test_the_nearest_has_most_in_common(run, name, said):
    found = nearest(document(*run))
    assert (found[0][0].name, found[0][1]) == (name, said)
    assert len(found) == len(KNOWN)


def test_what_a_run_lacks_is_no_number():
    bare = document(10, 5, "") | {"rank": {}, "kappa": {}, "lag_coherence": {}, "noise": {"signal_share": None}}
    found = of_run(bare)
    assert math.isnan(found.rank)
    assert all(map(math.isnan, found.kappa.values()))
    assert (found.coherence, found.signal) == (None, None)
