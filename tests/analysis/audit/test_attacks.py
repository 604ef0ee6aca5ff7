"""What a forger who recomputes every digest gets away with: the table of docs/audit.md, checked cell by cell."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from gradlog.analysis import audit_run
from gradlog.format.chain import digest
from tests.helpers import forger
from tests.helpers.forger import STEPS, Rows, Training

DOC = Path(__file__).resolve().parents[3] / "docs" / "audit.md"
HONEST, DONOR = Training(0), Training(1)


def one(edit):
    return lambda rows, donor: edit(rows[0], donor[0])


def drop(r: Rows, donor: Rows) -> None:
    r.take(np.delete(np.arange(STEPS), 40))


def drop_declared(r: Rows, donor: Rows) -> None:
    drop(r, donor)
    r.header = dataclasses.replace(r.header, dropped=((40, 40, "the disk did not keep up"),))


def drop_declared_late(r: Rows, donor: Rows) -> None:
    drop_declared(r, donor)
    r.earlier = {0: (), 1: ()}


def drop_renumbered(r: Rows, donor: Rows) -> None:
    steps = r.step[:-1]
    drop(r, donor)
    r.step = steps


def cut_tail(r: Rows, donor: Rows) -> None:
    r.take(slice(0, 70))


def copy_row(r: Rows, donor: Rows) -> None:
    r.norm2[41], r.sketch[41] = r.norm2[20], r.sketch[20]


def copy_scaled(r: Rows, donor: Rows) -> None:
    r.norm2[41], r.sketch[41] = 0.25 * r.norm2[20], 0.5 * r.sketch[20]


def swap(r: Rows, donor: Rows) -> None:
    order = np.arange(STEPS)
    order[[20, 41]] = 41, 20
    r.norm2, r.sketch = r.norm2[order], r.sketch[order]


def scale_sketch(r: Rows, donor: Rows) -> None:
    r.sketch[41] *= 2


def scale_slightly(r: Rows, donor: Rows) -> None:
    r.sketch[41] *= 1.05


def scale_both(r: Rows, donor: Rows) -> None:
    r.sketch[41] *= 2
    r.norm2[41] *= 4


def zero_row(r: Rows, donor: Rows) -> None:
    r.sketch[41] = 0


def replace_noise(r: Rows, donor: Rows) -> None:
    r.sketch[41] = np.random.default_rng(5).standard_normal(r.sketch[41].shape)


def replace_fitting(r: Rows, donor: Rows) -> None:
    noise = np.random.default_rng(5).standard_normal(r.sketch[41].shape)
    r.sketch[41] = noise * np.sqrt(r.norm2[41] / np.square(noise).sum(1))[:, None]


def fabricate(r: Rows, donor: Rows) -> None:
    r.sketch = np.random.default_rng(5).standard_normal(r.sketch.shape).astype(np.float32)
    r.norm2 = np.square(r.sketch.astype(float)).sum(2)


def splice(r: Rows, donor: Rows) -> None:
    r.norm2[48:], r.sketch[48:], r.scalars[48:] = donor.norm2[48:], donor.sketch[48:], donor.scalars[48:]


def hide_nan(r: Rows, donor: Rows) -> None:
    r.sketch[41, 0, 3] = np.nan


def edit_rate(r: Rows, donor: Rows) -> None:
    r.column("lr")[48:] = 0.01


def backdate(r: Rows, donor: Rows) -> None:
    r.column("wall_time")[:] -= 86400


ATTACKS = {
    "drop a row": drop,
    "drop a row, declare it at the end": drop_declared_late,
    "drop a row, declare it everywhere": drop_declared,
    "drop a row, renumber the others": drop_renumbered,
    "cut off the last rows": cut_tail,
    "copy a row to another step": copy_row,
    "copy a row, scaled with its norm": copy_scaled,
    "exchange two rows": swap,
    "double a sketch": scale_sketch,
    "scale a sketch by 1.05": scale_slightly,
    "double a sketch and its norm": scale_both,
    "zero a sketch": zero_row,
    "noise for a sketch": replace_noise,
    "noise of the right norm for a sketch": replace_fitting,
    "fabricate all rows": fabricate,
    "splice in half of another run": splice,
    "put NaN under a clean flag": hide_nan,
    "edit the learning rate": edit_rate,
    "backdate the run": backdate,
}
COLUMNS = ("log alone", "kept head", "checkpoints", "replay")


@dataclasses.dataclass
class Scene:
    path: Path
    checkpoints: list
    head: str
    donor: list[Rows]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    kept = forger.record(folder / "run.zarr", HONEST)
    forger.record(folder / "donor.zarr", DONOR)
    last = sorted((folder / "run.zarr").glob("*/manifest/*.json"))[-1]
    return Scene(folder / "run.zarr", kept, digest(last.read_bytes()), forger.load(folder / "donor.zarr")[1])


def verdict(report, *checks: str) -> str:
    """The worst of the lines of some checks (all but provenance when none are named), with the check's name."""
    lines = [x for x in report.lines if (x.check in checks if checks else x.check != "provenance")]
    for status in ("FAIL", "WARN"):
        names = sorted({x.check for x in lines if x.status == status})
        if names:
            return f"{status} {', '.join(names)}"
    return "-"


def look(path: Path, scene: Scene) -> dict[str, str]:
    gradient = forger.replay_of(HONEST)
    report = audit_run(path, heads_kept=[scene.head], checkpoints=scene.checkpoints, sgd=True, replay=gradient,
                       replay_steps=STEPS)  # fmt: skip
    outside = ("head", "checkpoints", "replay")
    alone = dataclasses.replace(report, lines=[x for x in report.lines if x.check not in outside])
    verdicts = {"log alone": verdict(alone)}
    for column, check in zip(COLUMNS[1:], outside, strict=True):
        verdicts[column] = verdict(report, check).removesuffix(f" {check}")
    return verdicts


def table() -> dict[str, dict[str, str]]:
    """The table in the documentation."""
    rows = re.findall(r"^\| ([a-z].*?) \|(.*)\|$", DOC.read_text(), re.MULTILINE)
    cells = {name: [c.strip().strip("`") for c in rest.split("|")] for name, rest in rows}
    return {name: dict(zip(COLUMNS, c, strict=True)) for name, c in cells.items() if name in ATTACKS}


def test_the_honest_run_passes(scene: Scene) -> None:
    assert look(scene.path, scene) == dict.fromkeys(COLUMNS, "-")


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_seen_where_the_documentation_says(scene: Scene, tmp_path: Path, attack: str) -> None:
    path = tmp_path / "run.zarr"
    forger.shutil.copytree(scene.path, path)
    forger.forge(path, lambda rows: ATTACKS[attack](rows[0], scene.donor[0]))
    found = look(path, scene)
    print(f"| {attack} | " + " | ".join(found[c] for c in COLUMNS) + " |")
    assert found == table()[attack]


def test_the_table_is_complete() -> None:
    assert table().keys() == ATTACKS.keys()


@pytest.mark.parametrize(("by", "head"), [(0, "-"), (1e-3, "FAIL")], ids=["nothing", "a millisecond"])
def test_a_forger_who_changes_a_millisecond_changes_the_head_alone(
    scene: Scene, tmp_path: Path, by: float, head: str
) -> None:
    path = tmp_path / "run.zarr"
    forger.shutil.copytree(scene.path, path)

    def move(rows: list[Rows]) -> None:
        rows[0].column("wall_time")[:] += by

    forger.forge(path, move)
    assert look(path, scene) == {**dict.fromkeys(COLUMNS, "-"), "kept head": head}
