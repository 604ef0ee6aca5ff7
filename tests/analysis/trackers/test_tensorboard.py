"""Event files of our own, read by TensorBoard, hold what the analysis and the run say."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from gradlog.analysis import analyze, export_to_tracker, find_events, open_run, to_json
from gradlog.analysis.trackers.tensorboard import record
from gradlog.errors import MissingDependencyError, UnusableInputError
from tests.helpers import stores

STEPS, SPIKE = 120, 80


def rows():
    found = np.random.default_rng(0).standard_normal((STEPS, 2, 8))
    found[SPIKE] *= 40
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    scalars = {"loss": np.linspace(2, 1, STEPS), "lr": np.full(STEPS, 0.1)}
    return str(stores.write_run(folder / "walk.zarr", rows(), steps=1000 + np.arange(STEPS), scalars=scalars))


@pytest.fixture(scope="module")
def exported(path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("logs") / "walk"
    return Path(export_to_tracker(path, "tensorboard", folder, window=30))


@pytest.fixture(scope="module")
def board(exported) -> EventAccumulator:
    return EventAccumulator(str(exported), size_guidance={"scalars": 0, "images": 0}).Reload()


def scalars(board: EventAccumulator, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in board.Scalars(tag)}


def test_windows_stand_at_their_last_steps_under_the_names_of_the_json(board, path):
    windows = to_json(analyze(path, window=30))["windows"]
    assert [w["last_step"] for w in windows] == [1029, 1059, 1089, 1119]
    for name in ("last", "ema(0.9)"):
        for key in ("value", "null"):
            expected = {w["last_step"]: pytest.approx(w["kappa"][name][key], rel=1e-6) for w in windows}
            assert scalars(board, f"gradlog/kappa/{name}/{key}") == expected
    expected = {w["last_step"]: pytest.approx(w["rank"]["0.05"]["value"]) for w in windows}
    assert scalars(board, "gradlog/rank/0.05/value") == expected


def test_numbers_of_the_whole_run_stand_at_its_last_step(board, path):
    whole = to_json(analyze(path))["kappa"]["last"]["value"]
    assert scalars(board, "gradlog/whole/kappa/last/value") == {1119: pytest.approx(whole, rel=1e-6)}


def test_norms_stand_at_every_step(board):
    norms = np.linalg.norm(rows().astype(np.float32), axis=2)
    assert scalars(board, "gradlog/group_norm/g1") == {
        1000 + t: pytest.approx(x, rel=1e-6) for t, x in enumerate(norms[:, 1])
    }
    assert scalars(board, "gradlog/norm")[1000 + SPIKE] == pytest.approx(np.linalg.norm(norms[SPIKE]), rel=1e-6)


def test_the_count_of_events_rises_at_their_steps(board, path):
    found = find_events(open_run(path)).found
    assert 1000 + SPIKE in [event.first_step for event in found]
    assert scalars(board, "gradlog/events/count") == {1000: 0.0} | {e.first_step: i + 1 for i, e in enumerate(found)}
    assert scalars(board, "gradlog/events/deviations")[1000 + SPIKE] > 5


def test_the_overview_is_a_picture_at_the_last_step(board):
    (image,) = board.Images("gradlog/overview")
    drawn = matplotlib.image.imread(io.BytesIO(image.encoded_image_string), format="png")
    assert image.step == 1119
    assert drawn.shape[:2] == (image.height, image.width)
    assert drawn.std() > 0


def test_long_runs_have_the_median_and_the_largest_norm_of_each_stretch(tmp_path):
    values = np.random.default_rng(1).standard_normal((2500, 1, 4))
    path = stores.write_run(tmp_path / "long.zarr", values, chunk=256)
    file = export_to_tracker(str(path), "tensorboard", tmp_path / "logs")
    board = EventAccumulator(file, size_guidance={"scalars": 0}).Reload()
    norms = np.linalg.norm(values[:, 0].astype(np.float32), axis=1)
    largest = scalars(board, "gradlog/norm_largest")
    assert len(largest) == len(scalars(board, "gradlog/norm")) == 1000
    assert max(largest.values()) == pytest.approx(norms.max(), rel=1e-6)


def test_a_number_beyond_single_precision_is_infinite(tmp_path):
    values = np.random.default_rng(1).standard_normal((20, 1, 4))
    values[5] = 3e38
    path = stores.write_run(tmp_path / "large.zarr", values)
    file = export_to_tracker(str(path), "tensorboard", tmp_path / "logs")
    norms = scalars(EventAccumulator(file, size_guidance={"scalars": 0}).Reload(), "gradlog/norm")
    assert [step for step, norm in norms.items() if np.isinf(norm)] == [5]


def test_a_file_with_one_changed_byte_is_not_read_to_its_end(exported, tmp_path):
    data = bytearray(exported.read_bytes())
    assert len(list(LegacyEventFileLoader(str(exported)).Load())) > 300
    data[3000] ^= 1
    damaged = tmp_path / "events.out.tfevents.1.damaged"
    damaged.write_bytes(data)
    assert len(list(LegacyEventFileLoader(str(damaged)).Load())) < 100


def test_a_record_without_data_is_sixteen_bytes():
    assert len(record(b"")) == 16


def test_a_second_export_replaces_the_first_only_if_forced(path, tmp_path):
    other = tmp_path / "events.out.tfevents.1.training"
    other.write_bytes(b"")
    first = Path(export_to_tracker(path, "tensorboard", tmp_path))
    with pytest.raises(FileExistsError, match="--force replaces it"):
        export_to_tracker(path, "tensorboard", tmp_path)
    second = Path(export_to_tracker(path, "tensorboard", tmp_path, force=True))
    assert sorted(tmp_path.iterdir()) == sorted({other, second})
    assert first.parent == second.parent


def test_nothing_is_written_into_a_run(path):
    before = sorted(Path(path).rglob("*"))
    with pytest.raises(UnusableInputError, match="name a log folder"):
        export_to_tracker(path, "tensorboard", path)
    assert sorted(Path(path).rglob("*")) == before


def test_a_bucket_is_refused_before_anything_is_written(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusableInputError, match="expected a folder of this machine"):
        export_to_tracker(path, "tensorboard", "s3://bucket/logs")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tracker", "given", "said"),
    [
        ("tensorboard", {"project": "p"}, "TensorBoard takes no 'project': name a log folder instead"),
        ("tensorboard", {"into": "x"}, "TensorBoard takes no 'into': name the run's log folder instead"),
        ("trackio", {"place": "x"}, "trackio takes no 'place': set the environment variable TRACKIO_DIR to its folder"),
    ],
)
def test_what_a_tracker_does_not_have_is_refused(path, tracker, given, said):
    with pytest.raises(UnusableInputError) as error:
        export_to_tracker(path, tracker, **given)
    assert str(error.value) == said


@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(path, monkeypatch, tracker):
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(MissingDependencyError) as error:
        export_to_tracker(path, tracker)
    assert str(error.value) == f"{tracker} is not installed; install it with: pip install {tracker}"


def test_an_unknown_tracker_is_refused(path):
    with pytest.raises(ValueError, match="tracker must be one of tensorboard, wandb, mlflow, trackio, got 'paper'"):
        export_to_tracker(path, "paper")
