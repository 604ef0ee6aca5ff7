"""A stretch of steps is read as if no other had been recorded."""

from __future__ import annotations

import numpy as np
import pytest

from gradlog.analysis import analyze, find_events, open_run, to_json
from gradlog.errors import TooFewStepsError
from tests.helpers import stores

ROWS = np.random.default_rng(0).standard_normal((200, 2, 8)).cumsum(axis=0) % 3
LOST, FLAGS = 97, np.zeros(200, np.uint32)
ROWS[LOST, 0, 0] = np.nan
FLAGS[LOST] = 1
LOSS = np.linspace(2, 1, 200)


def numbers(run) -> dict:
    document = to_json(analyze(run, ["last", "ar(2)"], window=30))
    del document["run"], document["svd"]["predicted_memory"]
    return document


@pytest.mark.parametrize("ends", [(0, 199), (40, 160), (98, 150), (60, 97)])
def test_a_stretch_is_a_run_of_its_own(tmp_path, ends):
    first, last = ends
    part = slice(first, last + 1)
    whole = stores.write_run(tmp_path / "whole.zarr", ROWS, flags=FLAGS, scalars={"loss": LOSS})
    alone = stores.write_run(
        tmp_path / "alone.zarr", ROWS[part], flags=FLAGS[part], scalars={"loss": LOSS[part]}, steps=np.arange(200)[part]
    )
    run, expected = open_run(whole, steps=ends), open_run(alone)
    assert run.steps.tolist() == expected.steps.tolist() == list(range(first, last + 1))
    assert run.flags.tolist() == expected.flags.tolist()
    assert numbers(run) == numbers(expected)
    assert find_events(run).to_dict()["events"] == find_events(expected).to_dict()["events"]


def test_a_stretch_across_a_rewind_takes_the_rows_that_count(tmp_path):
    rows = np.nan_to_num(ROWS)
    path = stores.write_rewound(tmp_path / "r.zarr", rows, 120, back=30)
    run, whole = open_run(path, steps=(70, 130)), open_run(path)
    at = (whole.steps >= 70) & (whole.steps <= 130)
    assert run.steps.tolist() == list(range(70, 131))
    np.testing.assert_array_equal(run.sketch.compute(), whole.sketch.compute()[at])
    np.testing.assert_array_equal(run.group_norm2, whole.group_norm2[at])
    assert run.info["abandoned"] == whole.info["abandoned"] == 30


def test_what_a_cache_keeps_of_a_stretch_is_not_given_for_the_whole(tmp_path):
    from gradlog.analysis.results.analyze import analyze_cached

    path = stores.write_run(tmp_path / "whole.zarr", np.nan_to_num(ROWS))
    whole, part, other = (
        to_json(analyze_cached(open_run(path, steps=steps), cache=tmp_path / "kept"))["rows"]
        for steps in (None, (0, 99), (100, 149))
    )
    assert (whole, part, other) == (200, 100, 50)


def test_no_steps_are_too_few(tmp_path):
    run = open_run(stores.write_run(tmp_path / "whole.zarr", np.nan_to_num(ROWS)), steps=(500, 600))
    with pytest.raises(TooFewStepsError):
        analyze(run)
