"""Hundreds of damaged and hostile stores: a report each time, no traceback, no hang, no change that goes unseen."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradlog
from gradlog.analysis import audit_run
from gradlog.analysis.audit.findings import Report
from gradlog.errors import NotARunError
from gradlog.format import layout
from gradlog.format.chain import NO_CHECK, digest, seal
from gradlog.format.header import SEGMENT_KEY, RunHeader, SegmentHeader
from gradlog.format.names import META
from gradlog.storage.compact import compact
from tests.helpers.json_edits import dump, places, put

PATIENCE = 20.0
"""Seconds after which an audit of a store of a few kilobytes hangs."""


def grads(t: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(t)
    return {"a": rng.standard_normal((6, 5)), "b": rng.standard_normal(12)}


def write(path: Path, name: str) -> Path:
    codec = "bitshuffle-zstd" if name == "packed" else "raw"
    options = {"like": grads(0), "k": 8, "chunk": 8, "groups": "tensors", "codec": codec, "on_error": "raise"}
    log = gradlog.open(path, **options)
    for t in range(20):
        log.step(grads(t), loss=float(t))
    log.close()
    if name == "journal":
        log = gradlog.open(path, mode="a", **options)
        for t in range(20, 25):
            log.step(grads(t), loss=float(t))
        folder, journal = path / "seg-000001-r0000", {f.name: f.read_bytes() for f in path.glob("*/.journal-*")}
        record = (folder / "zarr.json").read_bytes()
        log.close()
        for old in [p for p in folder.rglob("*") if p.is_file()]:
            old.unlink()
        (folder / "zarr.json").write_bytes(record)
        for name, data in journal.items():
            (folder / name).write_bytes(data)
    else:
        with gradlog.open(path, mode="a", first_step=15, **options) as log:
            for t in range(15, 25):
                log.step(grads(t), loss=float(t))
    if name == "compact":
        compact(path)
    return path


@pytest.fixture(scope="module", params=["plain", "packed", "compact", "journal"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("fuzz") / "run.zarr", request.param)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raise where the work inside does not come back."""

    def late(*_: object) -> None:
        raise TimeoutError(f"no report after {PATIENCE} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def look(path: Path) -> Report | None:
    """The report, or None where the folder is refused as no run at all."""
    with bounded():
        try:
            report = audit_run(path)
        except NotARunError:
            return None
    json.dumps(report.to_json(), allow_nan=False)
    assert not any("TimeoutError" in x.text or "MemoryError" in x.text for x in report.lines)
    return report


def findings(report: Report | None) -> set[tuple[str, str]]:
    lines = [] if report is None else report.lines
    return {(x.check, x.text) for x in lines if x.status in ("FAIL", "WARN")}


def cut_short(report: Report) -> bool:
    """Whether a remark tells of a record that is not whole: a few bytes at a journal's end look like a kill's."""
    return any("a last row was cut short by a kill" in line.text for line in report.lines)


@functools.cache
def usual(store: Path) -> set[tuple[str, str]]:
    return findings(look(store))


def files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file())


@contextlib.contextmanager
def copy_of(store: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(store, Path(folder) / "run.zarr"))


DAMAGE = ("flip", "cut", "append", "delete", "swap", "noise", "zeros")


def damage(path: Path, kind: str, which: int, where: float, byte: int) -> str:
    """Change one file; return a word on it where the change means nothing or is one that nobody could see."""
    files = files_of(path)
    file = files[which % len(files)]
    data = file.read_bytes()
    at = min(int(where * len(data)), len(data) - 1)
    if kind == "flip":
        new = data[:at] + bytes([data[at] ^ byte]) + data[at + 1 :]
    elif kind == "cut":
        new = data[:at]
    elif kind == "append":
        new = data + bytes([byte] * (1 + at % 50))
    elif kind == "swap":
        new = files[(which + byte) % len(files)].read_bytes()
    elif kind == "noise":
        new = np.random.default_rng(byte).bytes(len(data))
    else:
        new = bytes(len(data))
    if kind == "delete":
        file.unlink()
    else:
        file.write_bytes(new)
    if file.name.startswith(".journal") and kind in ("cut", "delete"):
        return "nothing says how many rows a journal should hold"
    return "nothing changed" if kind != "delete" and _means(file, new) == _means(file, data) else ""


def _means(file: Path, data: bytes) -> Any:
    """Content of an array's metadata, whose white space and spelling of numbers mean nothing; or bytes."""
    if file.name == "zarr.json" and file.parent.name in ("sketch", "group_norm2", "scalars", "step", "flags"):
        with contextlib.suppress(ValueError):
            return json.loads(data)
    return data


FUZZ = {"suppress_health_check": list(HealthCheck), "deadline": None, "derandomize": True, "database": None}


@pytest.mark.slow
@given(st.sampled_from(DAMAGE), st.integers(0, 200), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@settings(max_examples=60, **FUZZ)
def test_no_damage_goes_unseen(store: Path, kind: str, which: int, where: float, byte: int) -> None:
    with copy_of(store) as path:
        excuse = damage(path, kind, which, where, byte)
        report = look(path)
        assert excuse or report is None or findings(report) - usual(store) or cut_short(report)


HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**53, 2**63, 10**30, 1e308, -0.5, "", "x" * 1000, "\x1b[31m\n", "../../zarr.json",
    "seg-000000-r0000", [], [[]], {}, {"a": {}}, [1] * 300, ["a", 1, None], [[[[[[]]]]]],
]  # fmt: skip


def forge(path: Path, fresh: dict[Path, Any]) -> None:
    """Write edited JSON files and recompute every digest that depends on them, as far as the edit left a place."""
    for file, document in fresh.items():
        file.write_bytes(dump(document))
    root = digest((path / META).read_bytes())
    for folder in sorted(path.glob("seg-*")):
        previous = root
        for file in sorted(folder.glob("manifest/*.json")):
            document = json.loads(file.read_bytes())
            if isinstance(document, dict):
                document["prev"] = previous
            file.write_bytes(dump(document))
            previous = digest(file.read_bytes())
        meta = json.loads((folder / META).read_bytes())
        with contextlib.suppress(KeyError, TypeError):
            attrs = meta["attributes"][SEGMENT_KEY]
            attrs.update(root=root, check=NO_CHECK)
            if not attrs["shard"]:
                attrs["head"] = previous
        with contextlib.suppress(Exception):
            head = RunHeader.from_attrs(json.loads((path / META).read_bytes())["attributes"])
            segment = SegmentHeader.from_attrs(meta["attributes"])
            arrays = layout.arrays(head, segment)
            meta["consolidated_metadata"]["metadata"] = arrays
            for name, array in arrays.items():
                (folder / name / META).write_bytes(dump(array))
        (folder / META).write_bytes(seal(dump(meta)))


def edited(path: Path, which: int, where: float, value: Any) -> None:
    """Replace one value in one metadata file or manifest, with all digests recomputed."""
    files = [f for f in files_of(path) if f.suffix == ".json" and f.parent.name[:3] in ("run", "seg", "man")]
    file = files[which % len(files)]
    document = json.loads(file.read_bytes())
    found = [p for p in places(document) if "provenance" not in p]
    put(document, found[int(where * len(found))], value)
    forge(path, {file: document})


@pytest.mark.slow
@given(st.integers(0, 50), st.floats(0, 1, exclude_max=True), st.sampled_from(HOSTILE))
@settings(max_examples=60, **FUZZ)
def test_hostile_metadata_ends_in_a_report(store: Path, which: int, where: float, value: Any) -> None:
    with copy_of(store) as path:
        edited(path, which, where, value)
        look(path)


def test_the_unharmed_stores_pass(store: Path) -> None:
    report = look(store)
    assert report is not None
    assert not report.failed, findings(report)
