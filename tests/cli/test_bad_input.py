"""Damaged, foreign and too short input: one line on standard error, nothing on standard output, the agreed status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

VERBS = ["info", "analyze"]


def refused(outcome, code: int, *words: str) -> None:
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.startswith("gradlog: ")
    assert outcome.err.count("\n") == 1
    assert "in gradlog itself" not in outcome.err
    for word in words:
        assert word in outcome.err


@pytest.mark.parametrize("verb", VERBS)
def test_not_a_run(call, tmp_path, verb):
    refused(call(verb, tmp_path / "nothing.zarr"), 3, "no such file")
    (tmp_path / "folder").mkdir()
    refused(call(verb, tmp_path / "folder"), 3, "zarr.json")
    (tmp_path / "file.zarr").write_text("text")
    refused(call(verb, tmp_path / "file.zarr"), 3, "neither a folder nor a zip")
    (tmp_path / "folder" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    refused(call(verb, tmp_path / "folder"), 3, "not a gradlog run")


def test_what_cannot_be_compacted_is_named(call, tmp_path):
    (tmp_path / "file.zarr").write_text("text")
    refused(call("compact", tmp_path / "nothing.zarr"), 3, f"{tmp_path / 'nothing.zarr'}: no zarr.json inside")
    refused(call("compact", tmp_path / "file.zarr"), 3, f"{tmp_path / 'file.zarr'}: a file")


@pytest.mark.parametrize("verb", [*VERBS, "audit", "report"])
def test_a_url_of_no_known_kind(call, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    refused(call(verb, "nowhere://run.zarr"), 3, "nowhere", "expected a folder or a URL")


@pytest.mark.parametrize("verb", ["recover", "compact"])
def test_an_archive_is_to_be_unpacked_before_it_is_changed(call, make_run, tmp_path, verb):
    packed = Path(shutil.make_archive(str(tmp_path / "run"), "zip", make_run()))
    before = packed.read_bytes()
    refused(call(verb, packed), 3, "unpack")
    assert packed.read_bytes() == before


def test_an_audit_names_what_is_no_metadata(call, tmp_path):
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3}')
    told = call("audit", tmp_path)
    assert told.code == 1
    assert "FAIL  limits      zarr.json: root attributes carry no 'gradlog'" in told.out


@pytest.mark.parametrize("steps", [0, 1])
def test_too_few_steps(call, make_run, steps):
    path = make_run(steps=steps)
    assert call("info", path).code == 0
    refused(call("analyze", path), 3, f"{steps} finite steps")


def test_burn_in_that_leaves_nothing(call, make_run):
    refused(call("analyze", make_run(), "--burn-in", "39"), 3, "burn_in=39")


@pytest.mark.parametrize("verb", VERBS)
def test_a_newer_format(call, make_run, verb):
    meta = make_run() / "zarr.json"
    document = json.loads(meta.read_text())
    document["attributes"]["gradlog"]["format"] = "2.0"
    meta.write_text(json.dumps(document))
    refused(call(verb, meta.parent), 3, "2.0", "pip install -U gradlog-zarr")


@pytest.mark.parametrize("version", [[f"s{i}" for i in range(400)], "9" * 5000, {"a" * 3000: 1}])
def test_a_format_version_of_any_length_is_told_in_a_short_line(call, make_run, version):
    meta = make_run() / "zarr.json"
    document = json.loads(meta.read_text())
    document["attributes"]["gradlog"]["format"] = version
    meta.write_text(json.dumps(document))
    result = call("info", meta.parent)
    refused(result, 1, "format version")
    assert len(result.err) < 400


@pytest.mark.parametrize("verb", VERBS)
def test_broken_metadata(call, make_run, verb):
    meta = make_run() / "zarr.json"
    meta.write_text(meta.read_text()[:50])
    refused(call(verb, meta.parent), 1)


@pytest.mark.parametrize("array", ["sketch/c.1.0.0", "group_norm2/c.1.0", "step/c.1", "flags/c.1"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_damaged_chunks(call, make_run, array, damage):
    path = make_run()
    chunk = path / "seg-000000-r0000" / array
    data = bytearray(chunk.read_bytes())
    if damage == "missing":
        chunk.unlink()
    elif damage == "truncated":
        chunk.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 4
        chunk.write_bytes(data)
    refused(call("analyze", path), 1, "seg-000000-r0000")


def test_a_missing_segment_record(call, make_run):
    path = make_run()
    (path / "seg-000000-r0000" / "zarr.json").unlink()
    refused(call("analyze", path), 1, "seg-000000-r0000")


def test_missing_folder_of_the_output(call, make_run, tmp_path):
    refused(call("analyze", make_run(), "-o", tmp_path / "no" / "result.json"), 1, "there is no folder")


@pytest.mark.parametrize(
    ("verb", "option", "name"),
    [
        ("analyze", "-o", "result.json"),
        ("analyze", "--plot", "result.png"),
        ("report", "-o", "page.html"),
        ("compare", "--plot", "kappa.svg"),
        ("export", "-o", "rows.csv"),
    ],
)
def test_a_folder_that_takes_no_files_is_refused_before_the_run_is_opened(call, tmp_path, locked, verb, option, name):
    more = ["--to", "csv"] if verb == "export" else []
    refused(call(verb, *more, tmp_path / "nothing.zarr", option, locked / name), 1, str(locked), "takes no files")


def test_an_undamaged_copy_is_accepted(call, make_run, tmp_path):
    shutil.copytree(make_run(), tmp_path / "copy.zarr")
    assert call("analyze", tmp_path / "copy.zarr").code == 0
