"""wandb, MLflow and trackio really written, each in a process of its own, and read back."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from gradlog.analysis import analyze, to_json
from tests.helpers import stores
from tests.helpers.small_run import environment

STEPS = 90


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    rows = np.random.default_rng(0).standard_normal((STEPS, 2, 8))
    return stores.write_run(tmp_path_factory.mktemp("runs") / "walk.zarr", rows)


@pytest.fixture(scope="module")
def expected(path) -> dict[int, float]:
    """Kappa of each window by its last step."""
    windows = to_json(analyze(str(path), window=30))["windows"]
    return {w["last_step"]: pytest.approx(w["kappa"]["last"]["value"]) for w in windows}


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not in this environment; make integrations runs this where it is")


def export(path: Path, tracker: str, *options: object, **extra: str) -> str:
    """What the command says of the place."""
    command = [sys.executable, "-m", "gradlog", "export", path, "--to", tracker, "--window", "30", "-q", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment(**extra))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return line


def test_wandb_offline(path, expected, tmp_path):
    need("wandb")
    home = {"WANDB_MODE": "offline", "HOME": str(tmp_path)}
    folder = Path(export(path, "wandb", "--project", "digits", "-o", tmp_path, **home))
    assert folder.parent == tmp_path / "wandb"
    (file,) = folder.glob("*.wandb")
    records = list(wandb_records(file))
    history = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    found = {
        row["gradlog/step"]: row["gradlog/kappa/last/value"] for row in history if "gradlog/kappa/last/value" in row
    }
    assert found == expected
    assert [row["gradlog/step"] for row in history if "gradlog/norm" in row] == list(range(STEPS))
    assert [row["gradlog/step"] for row in history if row.get("gradlog/overview._type") == "image-file"] == [STEPS - 1]
    axes = {r.metric.glob_name: r.metric.step_metric for r in records if r.WhichOneof("record_type") == "metric"}
    assert axes["gradlog/*"] == "gradlog/step"
    (project,) = {r.run.project for r in records if r.WhichOneof("record_type") == "run"}
    assert project == "digits"


def wandb_records(file: Path) -> Iterator[object]:
    """Records of an offline run: a header of 7 bytes, then blocks of 32 KiB as LevelDB's log has them."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


READ_MLFLOW = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
(run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
history = client.get_metric_history(run.info.run_id, "gradlog/kappa/last/value")
pictures = [file.path for file in client.list_artifacts(run.info.run_id, "gradlog")]
print(json.dumps([run.info.run_name, run.info.status, [(m.step, m.value) for m in history], pictures,
                  len(client.get_metric_history(run.info.run_id, "gradlog/norm"))]))
"""


def test_mlflow_file_store(path, expected, tmp_path):
    need("mlflow")
    home = {"MLFLOW_ALLOW_FILE_STORE": "true", "HOME": str(tmp_path)}
    store = tmp_path / "mlruns"
    place, identity = export(path, "mlflow", "--project", "digits", "-o", store, **home).split(": run ")
    again = export(path, "mlflow", "--into", identity, "-o", store, **home)
    assert (place, again) == (str(store), f"{store}: run {identity}")
    command = [sys.executable, "-c", READ_MLFLOW, str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(**home))
    name, status, history, pictures, norms = json.loads(done.stdout)
    assert (name, status, pictures, norms) == ("walk", "FINISHED", ["gradlog/overview.png"], 2 * STEPS)
    assert dict(history) == expected
    assert len(history) == 2 * len(expected)


def test_trackio(path, expected, tmp_path):
    need("trackio")
    home = {"TRACKIO_DIR": str(tmp_path), "HOME": str(tmp_path)}
    assert export(path, "trackio", "--project", "digits", **home) == "project digits, run walk"
    with sqlite3.connect(tmp_path / "digits.db") as database:
        logged = database.execute("select step, metrics from metrics order by id").fetchall()
    rows: list[tuple[int, Mapping[str, object]]] = [(step, json.loads(numbers)) for step, numbers in logged]
    database.close()
    assert {
        step: row["gradlog/kappa/last/value"] for step, row in rows if "gradlog/kappa/last/value" in row
    } == expected
    assert [step for step, row in rows if "gradlog/norm" in row] == list(range(STEPS))
    assert len([step for step, row in rows if "gradlog/overview" in row]) == 1
    assert list(tmp_path.rglob("*.png"))
