"""Events that were planted into streams of gradients, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gradlog.analysis import find_events, open_run
from gradlog.analysis.common.text import TERMINAL
from gradlog.analysis.events.events import MOST
from gradlog.analysis.events.words import told
from gradlog.format.header import NONFINITE, SKIPPED
from tests.helpers import stores
from tests.helpers.programs import load

ROOT = Path(__file__).resolve().parents[3]
GROUPS, K, STEPS, AT = 4, 16, 200, 150


def stream(seed=0, steps=STEPS):
    """Gradients of four groups with a common direction and noise; a loss that falls."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(size=(1, GROUPS, K))
    rows = drift + rng.normal(size=(steps, GROUPS, K))
    loss = 2 * np.exp(-np.arange(steps) / 100 + 0.05 * rng.normal(size=steps))
    return rows, {"loss": loss, "lr": np.full(steps, 0.1)}


def events_of(path, rows, scalars, **more):
    return find_events(open_run(stores.write_run(path, rows, scalars=scalars, **more)))


def the_one(found):
    assert found.count == len(found.found) == 1
    return found.found[0]


def test_a_run_without_events_has_none(tmp_path):
    found = events_of(tmp_path / "run.zarr", *stream())
    assert found.found == ()
    assert found.unwatched == 40


def test_one_odd_batch(tmp_path):
    rows, scalars = stream()
    rows[AT] *= -8
    scalars["loss"][AT] *= 3
    event = the_one(events_of(tmp_path / "run.zarr", rows, scalars))
    assert (event.first_step, event.peak_step, event.kind) == (AT, AT, "one batch")
    assert {d.series for d in event.series} >= {"loss", "norm"}
    assert next(d.ratio for d in event.series if d.series == "loss") == pytest.approx(
        3 * np.exp(-0.32), rel=0.1
    )  # the median lags by 32 steps
    assert len(event.groups) == GROUPS
    assert event.direction.mean[0] < -0.5  # it points back
    assert sum(event.shares.values()) == pytest.approx(1)


def test_an_infinite_loss_is_an_event_though_the_gradient_is_finite(tmp_path):
    rows, scalars = stream()
    scalars["loss"][AT:] = np.inf
    found = events_of(tmp_path / "run.zarr", rows, scalars)
    event = the_one(found)
    assert (event.first_step, event.last_step, event.kind) == (AT, STEPS - 1, "")
    assert told(event.first, TERMINAL) == f"loss at step {AT} (infinite)"
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["count"] == 1


def test_a_loss_that_never_varied_before_has_no_number_of_deviations(tmp_path):
    rows, scalars = stream()
    scalars["loss"][:] = 1
    scalars["loss"][AT] = 5
    event = the_one(events_of(tmp_path / "run.zarr", rows, scalars))
    assert told(event.first, TERMINAL) == f"loss at step {AT} (5.0 times)"


def test_one_group_alone_is_named_however_small_it_is(tmp_path):
    rows, scalars = stream()
    rows[:, 2] *= 0.01
    rows[AT, 2] *= 30
    event = the_one(events_of(tmp_path / "run.zarr", rows, scalars))
    assert event.kind == "one group"
    assert [d.series for d in event.groups] == ["g2"]
    assert event.series == ()


def test_a_group_that_leads_the_loss_tells_by_how_many_steps(tmp_path):
    rows, scalars = stream()
    rows[AT : AT + 6, 1] *= 20
    scalars["loss"][AT + 4 : AT + 8] *= 5
    event = the_one(events_of(tmp_path / "run.zarr", rows, scalars))
    assert event.groups[0].series == "g1"
    assert next(d.step for d in event.series if d.series == "loss") - event.groups[0].step == 4
    assert event.kind == "one group"
    assert max(event.shares, key=event.shares.get) == "g1"


def test_a_jump_of_the_learning_rate_is_named_with_what_followed(tmp_path):
    rows, scalars = stream()
    scalars["lr"][AT:] *= 10
    rows[AT + 2 : AT + 5] *= 9
    scalars["loss"][AT + 2 : AT + 5] *= 6
    event = the_one(events_of(tmp_path / "run.zarr", rows, scalars))
    assert (event.first_step, event.kind) == (AT, "learning rate")
    assert event.learning_rate == pytest.approx(10)
    assert event.series[0].series == "lr"


def test_a_warm_up_is_no_jump(tmp_path):
    rows, scalars = stream()
    scalars["lr"] = np.minimum(np.arange(STEPS) / 100, 1.0)
    assert events_of(tmp_path / "run.zarr", rows, scalars).found == ()


def test_nan_is_an_event_with_its_groups_and_no_cosines(tmp_path):
    rows, scalars = stream()
    rows[AT, 3] = np.nan
    flags = np.zeros(STEPS, int)
    flags[AT] = NONFINITE | SKIPPED
    event = the_one(events_of(tmp_path / "run.zarr", rows, scalars, flags=flags))
    assert (event.kind, event.skipped) == ("non-finite", 1)
    assert [d.series for d in event.groups] == ["g3"]
    assert np.isnan(event.direction.mean).all()


def test_a_direction_that_recurs_is_recognised(tmp_path):
    rows, scalars = stream()
    again = 8 * np.random.default_rng(9).normal(size=(GROUPS, K))
    rows[AT], rows[AT - 60], rows[AT + 30] = again, again, -again
    first, second, third = events_of(tmp_path / "run.zarr", rows, scalars).found
    assert (first.direction.like, second.direction.like) == (1, 0)
    assert first.direction.cosine[0] == pytest.approx(1, abs=1e-3)
    assert third.direction.cosine[0] < -0.9


def test_a_gap_in_the_steps_makes_no_change(tmp_path):
    rows, scalars = stream()
    rows[AT:] += 5 * np.random.default_rng(8).normal(size=(GROUPS, K))  # another place, after a gap
    steps = np.arange(STEPS) + 1000 * (np.arange(STEPS) >= AT)
    found = events_of(tmp_path / "run.zarr", rows, scalars, steps=steps)
    assert all(d.series != "change" for e in found.found for d in e.series)
    assert any(d.series == "norm" for e in found.found for d in e.series)


def test_no_event_goes_on_across_a_rewind(tmp_path):
    """Both branches are odd next to the rewind from step 150 to step 100: each is an event of its own."""
    rows, _ = stream()
    rows[147:152] *= 20
    found = find_events(open_run(stores.write_rewound(tmp_path / "run.zarr", rows, 150, back=50), view="all"))
    assert [(e.first_step, e.last_step) for e in found.found] == [(147, 149), (100, 102)]


def test_of_very_many_events_the_largest_are_described(tmp_path):
    rows, scalars = stream(steps=2000)
    planted = np.arange(100, 2000, 20)
    rows[planted] *= np.linspace(10, 30, len(planted))[:, None, None]
    found = events_of(tmp_path / "run.zarr", rows, scalars)
    assert found.count == len(planted)
    assert len(found.found) == MOST
    assert [e.first_step for e in found.found] == sorted(e.first_step for e in found.found)


@pytest.mark.parametrize("steps", [1, 2, 39, 41])
def test_a_short_run_has_no_band(tmp_path, steps):
    rows, scalars = stream(steps=steps)
    found = events_of(tmp_path / "run.zarr", rows, scalars)
    assert (found.count, found.unwatched) == (0, min(steps, 40))


def test_its_numbers_do_not_depend_on_the_chunks(tmp_path):
    rows, scalars = stream()
    rows[AT] *= 8
    a, b = (events_of(tmp_path / f"{chunk}.zarr", rows, scalars, chunk=chunk).to_dict() for chunk in (16, 64))
    assert a["events"] == b["events"]


def test_a_window_that_is_too_short_is_refused(tmp_path):
    rows, scalars = stream()
    run = open_run(stores.write_run(tmp_path / "run.zarr", rows, scalars=scalars))
    for window in (5, "64", 64.0):
        with pytest.raises(ValueError, match="window: expected a whole number of at least 20 steps"):
            find_events(run, window=window)


def test_the_document_is_plain_json(tmp_path):
    rows, scalars = stream()
    rows[AT] *= 8
    rows[AT + 30] = np.nan
    flags = np.where(np.arange(STEPS) == AT + 30, NONFINITE, 0)
    document = events_of(tmp_path / "run.zarr", rows, scalars, flags=flags).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["schema"] == "gradlog.events/1"
    first, second = document["events"]
    assert set(first) == set(second)
    assert second["cosine_mean"] == {"value": None, "low": None, "high": None}
    assert first["shares"].keys() == {"g0", "g1", "g2", "g3"}


def test_a_loss_that_rises_alone_shares_no_jump(tmp_path):
    rows, scalars = stream()
    scalars["loss"][AT] *= 5
    event = the_one(events_of(tmp_path / "run.zarr", rows, scalars))
    assert [d.series for d in event.series] == ["loss"]
    assert (event.groups, event.shares) == ((), {})


def test_clipping_hides_no_jump_and_makes_none(tmp_path):
    """Norms are those before clipping: clipped ones are all the same, and its onset is no event."""
    rows, scalars = stream()
    rows[AT, 1] *= 30
    scalars["loss"][AT] *= 4
    norms = np.sqrt(np.square(rows).sum(axis=(1, 2)))
    limit = np.where(np.arange(STEPS) < 100, np.inf, 0.5 * np.median(norms))  # clipped from step 100 on
    scalars["clip_coef"] = np.minimum(1, limit / norms)
    clipped = rows * scalars["clip_coef"][:, None, None]
    event = the_one(events_of(tmp_path / "run.zarr", clipped, scalars))
    assert (event.first_step, event.kind) == (AT, "one batch")
    assert event.shares["g1"] > 0.9
    plain = the_one(events_of(tmp_path / "plain.zarr", rows, {n: scalars[n] for n in ("loss", "lr")}))
    assert [d.score for d in event.groups] == pytest.approx([d.score for d in plain.groups], rel=1e-3)


@pytest.fixture(scope="module")
def planted():
    pytest.importorskip("torch")
    return load(ROOT / "benchmarks" / "events.py")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["perceptron", "convolutions", "transformer"])
@pytest.mark.parametrize("accident", ["corrupt batch", "learning rate", "one layer", "NaN, skipped"])
def test_accidents_of_real_trainings_are_found(planted, tmp_path, name, accident):
    found = []
    for seed in (7, 8):  # one of two may be missed
        path = tmp_path / f"{seed}.zarr"
        at, layer = planted.record(name, seed, accident, path, steps=160)
        found.append(planted.found(name, accident, at, layer, find_events(open_run(path))))
    assert (True, True) in found
