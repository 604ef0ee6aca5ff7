"""SIGKILL at random moments of every verb: no acknowledged row is lost, none is wrong, no other file is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.kills import UNIT, VERBS, Tally, World, campaign, start, step


@pytest.mark.slow
def test_killed_in_every_verb(tmp_path: Path) -> None:
    tally = campaign(tmp_path, kills=40, seed=0)
    assert tally.kills == 40
    assert tally.acknowledged > 0
    assert tally.failures == 0, tally


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_killed_in_one_verb(tmp_path: Path, verb: object) -> None:
    world = World(tmp_path, tally := Tally())
    with start(world.path) as log:
        step(log, lambda t: None, 20)
    world.look(20)
    world.kill(verb, 0.02, first=False)
    world.audit()
    assert tally.failures == 0, tally


def test_the_look_after_a_kill_notices_what_it_is_for(tmp_path: Path) -> None:
    world = World(tmp_path, tally := Tally())
    with start(world.path) as log:
        step(log, lambda t: None, 20)
        log.step({"w": UNIT * np.float32(7)})
    world.look(30)
    (tmp_path / "other" / "c.0").write_bytes(b"touched")
    world.look(0)
    (world.path / "seg-000000-r0000" / "zarr.json").write_text("{}")
    world.look(0)
    assert (tally.lost, tally.wrong, tally.touched, tally.unreadable) == (9, 2, 2, 1)
