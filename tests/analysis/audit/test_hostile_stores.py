"""Stores made to hurt whoever opens them: each ends in a line that says why, before anything large is touched."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs.zstd import Zstd

import gradlog
from gradlog.analysis import audit_run
from gradlog.analysis.audit.findings import MOST_LINES, MOST_TEXT, Line, Report, problems
from gradlog.analysis.common.text import enumerate_some
from gradlog.errors import NotARunError, UnsupportedError
from gradlog.format import codec
from gradlog.format.chain import NO_CHECK, digest, seal
from gradlog.format.header import ROOT_KEY, SEGMENT_KEY
from gradlog.format.names import META
from gradlog.storage.compact import compact

SEGMENT = "seg-000000-r0000"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with gradlog.open(tmp_path / "run.zarr", k=8, chunk=16, on_error="raise") as log:
        for t in range(40):
            log.step(np.random.default_rng(t).standard_normal(30), loss=1.0)
    return tmp_path / "run.zarr"


def failure(path: Path, check: str = "limits") -> str:
    """What an audit fails for; no check after that one has looked at anything."""
    report = audit_run(path)
    failed = [x for x in report.lines if x.status == "FAIL"]
    assert {x.check for x in failed} == {check}
    assert all(x.status == "SKIP" for x in report.lines if x.check not in ("limits", "integrity"))
    return "\n".join(x.text for x in failed)


def declare(path: Path, **fields) -> None:
    """Change the run's header, with the digest of the root recomputed in the segment."""
    root = json.loads((path / META).read_text())
    for name, value in fields.items():
        part, _, field = name.rpartition("__")
        target = root["attributes"][ROOT_KEY]
        (target[part] if part else target)[field] = value
    (path / META).write_text(json.dumps(root))
    edit_segment(path, root=digest((path / META).read_bytes()))


def edit_segment(path: Path, **fields) -> None:
    meta = json.loads((path / SEGMENT / META).read_text())
    meta["attributes"][SEGMENT_KEY].update(fields, check=NO_CHECK)
    (path / SEGMENT / META).write_bytes(seal(json.dumps(meta, separators=(",", ":")).encode()))


@pytest.mark.parametrize("target", ["/etc/passwd", "/", "zarr.json"])
def test_links_are_not_followed(path: Path, target: str) -> None:
    (path / SEGMENT / "step" / "c.0").unlink()
    os.symlink(target, path / SEGMENT / "step" / "c.0")
    assert "step/c.0: a link, pipe or device" in failure(path)


def test_a_linked_folder_is_not_entered(path: Path, tmp_path: Path) -> None:
    os.rename(path / SEGMENT / "sketch", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path / SEGMENT / "sketch")
    assert "sketch: a link, pipe or device" in failure(path)


def test_a_pipe_does_not_block(path: Path) -> None:
    os.mkfifo(path / SEGMENT / "pipe")
    assert "pipe: a link, pipe or device" in failure(path)


def test_a_deep_folder(path: Path) -> None:
    (path / "/".join("abcdefghijkl")).mkdir(parents=True)
    assert "a folder too deep" in failure(path)


def test_a_sparse_metadata_file_is_not_read(path: Path) -> None:
    with open(path / SEGMENT / "manifest" / "000000.json", "r+b") as file:
        file.truncate(2**40)
    assert "more than is read of one file" in failure(path)


@pytest.mark.parametrize("key", ["sketch/c.0.0.0", "step/c.0", ".journal-000003"])
def test_a_sparse_data_file_is_not_read(path: Path, key: str) -> None:
    with open(path / SEGMENT / key, "ab") as file:
        file.truncate(2**40)
    assert key in failure(path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"chunk": 2**20, "sketch__k": 2**20, "sketch__m": 2**20}, "would take"),
        ({"sketch__m": 2**31}, "sketch.m, to which the sketch folds"),
        ({"chunk": 0}, "chunk must be a whole number"),
        (
            {"tensors": [{"name": "w", "shape": [2**60, 2**60], "dtype": "float32", "group": 0}]},
            "more than any model has",
        ),
    ],
    ids=["chunk", "folded", "no-chunk", "dimension"],
)
def test_absurd_headers(path: Path, fields: dict, words: str) -> None:
    declare(path, **fields)
    assert words in failure(path)


@pytest.mark.parametrize("rows", [41, 10**18])
def test_more_rows_than_flushes(path: Path, rows: int) -> None:
    edit_segment(path, rows=rows, flushes=3 if rows == 41 else rows // 16)
    report = audit_run(path)
    assert report.failed


def test_rows_that_would_fill_the_memory(path: Path) -> None:
    edit_segment(path, rows=10**11)
    assert "100,000,000,000 rows in chunks of 16" in failure(path)
    edit_segment(path, rows=48)
    assert "the arrays' metadata is not what the headers imply" in failure(path, "integrity")


def test_nested_json(path: Path) -> None:
    (path / META).write_text('{"attributes":' * 200_000)
    assert "zarr.json" in failure(path)


def rechain(path: Path, edit) -> None:
    """Edit the manifests and recompute their chain."""
    meta = json.loads((path / SEGMENT / META).read_text())["attributes"][SEGMENT_KEY]
    previous = meta["root"]
    for file in sorted((path / SEGMENT / "manifest").iterdir()):
        document = json.loads(file.read_text())
        edit(document)
        document["prev"] = previous
        file.write_text(json.dumps(document, separators=(",", ":")))
        previous = digest(file.read_bytes())
    edit_segment(path, head=previous)


def put_chunk(path: Path, key: str, data: bytes) -> None:
    """Exchange a chunk and recompute the chain."""
    (path / SEGMENT / key).write_bytes(data)

    def entry(manifest: dict) -> None:
        if key in manifest["chunks"]:
            manifest["chunks"][key] = {"size": len(data), "blake2b": digest(data)}

    rechain(path, entry)


def checked(data: bytes) -> bytes:
    import google_crc32c

    return data + int(google_crc32c.value(data)).to_bytes(4, "little")


def test_a_decompression_bomb(path: Path) -> None:
    bomb = checked(bytes(Zstd(level=1).encode(np.zeros(2**28, np.uint8))))
    put_chunk(path, "step/c.1", bomb)
    assert "step/c.1: cannot be decoded (a chunk decodes to 268435456 bytes, not 128)" in failure(path, "integrity")


def test_a_frame_without_its_size(path: Path) -> None:
    whole = bytes(Zstd(level=1).encode(np.zeros(16, np.int64)))
    stripped = whole[:4] + bytes([whole[4] & ~0xE0]) + b"\x58" + whole[6:]
    put_chunk(path, "step/c.1", checked(stripped))
    assert "an unknown number of bytes" in failure(path, "integrity")


@given(st.binary(max_size=3000), st.integers(1, 9))
def test_the_declared_size_of_real_frames(data: bytes, level: int) -> None:
    array = np.frombuffer(data + b"x", np.uint8)
    assert codec.zstd_size(bytes(Zstd(level=level).encode(array))[:18]) == len(array)


def test_the_declared_size_of_damaged_frames() -> None:
    assert codec.zstd_size(b"") is None
    assert codec.zstd_size(b"\x28\xb5\x2f\xfd\xff") is None
    assert codec.zstd_size(b"not a frame at all") is None


@pytest.mark.parametrize("edit", ["more", "less", "twice"])
def test_manifests_list_exactly_the_chunks_of_their_rows(path: Path, edit: str) -> None:
    def change(manifest: dict) -> None:
        if manifest["flush"] == 1:
            chunks = manifest["chunks"]
            key = "step/c.1"
            if edit == "less":
                del chunks[key]
            else:
                chunks["step/c.0" if edit == "twice" else "step/c.7"] = chunks[key]

    rechain(path, change)
    assert "it must list exactly the chunks of its rows" in failure(path, "integrity")


def test_shards_whose_chunks_overlap(path: Path) -> None:
    compact(path)
    shard = path / SEGMENT / "sketch" / "c" / "0" / "0" / "0"
    data = shard.read_bytes()
    size = 16 * 3 + 4
    index = struct.pack("<QQ", 0, len(data) - size) * 3
    shard.write_bytes(data[:-size] + checked(index))
    assert "the shard holds bytes that its index does not account for" in failure(path, "integrity")
    shard.write_bytes(data[:-size] + checked(struct.pack("<QQ", 2**63, 2**63) * 3))
    assert "the shard's index points outside the file" in failure(path, "integrity")
    shard.write_bytes(b"short")
    assert "the shard's index is damaged" in failure(path, "integrity")


def test_names_are_escaped_and_cut(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gradlog.cli.app import run

    (path / SEGMENT / "\x1b[2J\nPASS  integrity  all well").write_bytes(b"")
    (path / SEGMENT / ("n" * 255)).write_bytes(b"")
    with contextlib.suppress(OSError):
        (Path(os.fsdecode(os.fsencode(path) + b"/" + SEGMENT.encode() + b"/\xff"))).write_bytes(b"")
    assert run(["audit", str(path)]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    _, *lines = out.splitlines()
    assert all(line[:4] in ("PASS", "FAIL", "SKIP", "WARN", "    ") for line in lines)  # a long line goes on below
    assert "PASS  integrity  every" not in out
    assert run(["audit", "--json", str(path)]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_a_report_stays_short_whatever_is_found() -> None:
    report = Report("x")
    report.run("many", problems("many", ("y" * 10_000 for _ in range(5000)), ""))
    assert len(report.lines) == MOST_LINES + 1
    assert all(len(x.text) < MOST_TEXT + 10 for x in report.lines)
    assert "4,980 more" in report.lines[-1].text
    assert enumerate_some([1, 2]) == "1, 2"


def test_a_check_that_breaks_is_a_finding() -> None:
    def broken():
        yield Line("PASS", "c", "one")
        raise ZeroDivisionError("here")

    report = Report("x")
    assert not report.run("c", broken())
    assert [(x.status, x.text) for x in report.lines] == [
        ("PASS", "one"),
        ("FAIL", "stopped at ZeroDivisionError: here"),
    ]


def test_what_is_no_local_run(tmp_path: Path) -> None:
    (tmp_path / "run.zip").write_bytes(b"PK")
    for place in (tmp_path, tmp_path / "none", tmp_path / "run.zip"):
        with pytest.raises(NotARunError):
            audit_run(place)
    for place in (tmp_path / "run.zip", "s3://bucket/run.zarr"):
        with pytest.raises(UnsupportedError, match="copy or unpack"):
            audit_run(place, heads_kept=["0" * 64])
