"""What a stranger's file may cost whoever opens it: a refusal in one line, before anything large is read or made."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gradlog.errors import CorruptRunError
from gradlog.format import journal as records
from gradlog.format import limits
from gradlog.format.chain import split_lines
from gradlog.format.header import ROOT_KEY, SEGMENT_KEY, RunHeader, SegmentHeader, SketchSpec, TensorInfo

HEADER = RunHeader(SketchSpec("fold-hash/1", 8, 2**15, 0), ("w",), (TensorInfo("w", (30,), "float32", 0),), 16)


def test_a_plain_file_is_read_also_below_a_linked_run(tmp_path: Path) -> None:
    (tmp_path / "run" / "step").mkdir(parents=True)
    (tmp_path / "run" / "step" / "c.0").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("run")
    for run in ("run", "link"):
        assert limits.read_plain(tmp_path / run, "step/c.0") == b"abc"
    with pytest.raises(FileNotFoundError):
        limits.read_plain(tmp_path / "run", "step/c.1")
    with pytest.raises(NotADirectoryError):
        limits.read_plain(tmp_path / "run", "step/c.0/x")
    with pytest.raises(IsADirectoryError):
        limits.read_plain(tmp_path / "run", "step")


@pytest.mark.parametrize("kind", ["pipe", "link", "link to a device", "linked folder"])
def test_what_is_no_plain_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    folder, key = tmp_path / "run", "step/c.0"
    folder.mkdir()
    if kind == "linked folder":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "c.0").write_bytes(b"abc")
        (folder / "step").symlink_to(tmp_path / "elsewhere")
    else:
        (folder / "step").mkdir()
        if kind == "pipe":
            os.mkfifo(folder / key)
        else:
            (tmp_path / "plain").write_bytes(b"abc")
            (folder / key).symlink_to("/dev/zero" if kind == "link to a device" else tmp_path / "plain")
    with pytest.raises(CorruptRunError, match="a link, pipe or device, where a run has plain files only"):
        limits.read_plain(folder, key)


@pytest.mark.parametrize("key", ["zarr.json", "all.jsonl", "c.0"])
def test_a_sparse_file_is_not_read(tmp_path: Path, key: str) -> None:
    with open(tmp_path / key, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(CorruptRunError, match="bytes are more than is read of one file"):
        limits.read_plain(tmp_path, key)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[" * 100_000, "malformed"),
        (b"[" + b"[]," * 1_500_000 + b"0]", "more than any run has"),
        (b'{"rows": NaN}', "NaN is no JSON number"),
        (b'{"rows": ' + b"9" * 5000 + b"}", "malformed"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b"\xff\xfe", "malformed"),
    ],
    ids=["deep", "many", "nan", "long number", "list", "no text"],
)
def test_json_that_costs_too_much_or_is_none(data: bytes, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CorruptRunError, match=f"x.json: .*{words}"):
            limits.parse_object(data, "x.json")
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_the_header_of_a_large_model_is_within_the_bounds() -> None:
    tensors = [{"name": f"model.layers.{i}.weight", "shape": [1024, 1024], "dtype": "float32", "group": 0} for i in
               range(100_000)]  # fmt: skip
    d = HEADER.to_attrs()[ROOT_KEY] | {"tensors": tensors}
    read = limits.parse_object(json.dumps({ROOT_KEY: d}).encode(), "zarr.json")
    assert RunHeader.from_attrs(read).dimension == 100_000 * 2**20


@pytest.mark.parametrize(
    "change",
    [
        {"chunk": 0}, {"chunk": 2**20 + 1}, {"chunk": "16"}, {"chunk": True}, {"chunk": float("inf")}, {"every": 0},
        {"every": 10**30}, {"groups": "w"}, {"groups": []}, {"groups": ["w", "w"]}, {"groups": [["w"]]},
        {"tensors": {}}, {"tensors": [{}]}, {"tensors": [[]]}, {"codec": "pickle"}, {"sketch_bits": 24},
        {"uuid": "../../x"}, {"uuid": 5}, {"created": []}, {"provenance": []},
        {"provenance": {"versions": ["numpy"]}}, {"provenance": {"argv": "rm -rf"}},
        {"provenance": {"git": {"commit": 5}}}, {"provenance": {"notes": "x"}},
        {"sketch": None}, {"sketch": {"kind": 1, "k": 8, "m": 64, "seed": 0}},
        {"sketch": {"kind": "fold-hash/1", "k": 8.0, "m": 64, "seed": 0}},
        {"sketch": {"kind": "fold-hash/1", "k": 8, "m": 2**27, "seed": 0}},
        {"sketch": {"kind": "fold-hash/1", "k": 2**20, "m": 2**20, "seed": 0}, "chunk": 2**10},
        {"sketch": {"kind": "fold-hash/1", "k": 65, "m": 64, "seed": 0}},
        {"tensors": [{"name": "w", "shape": [2] * 65, "dtype": "float32", "group": 0}]},
        {"tensors": [{"name": "w", "shape": [10**30], "dtype": "float32", "group": 0}]},
        {"tensors": [{"name": "w", "shape": [2**59, 4], "dtype": "float32", "group": 0}]},
        {"tensors": [{"name": "w", "shape": [3], "dtype": "float32", "group": 1}]},
        {"tensors": [{"name": "w", "shape": [-3], "dtype": "float32", "group": 0}]},
    ],
    ids=str,
)  # fmt: skip
def test_headers_of_the_wrong_kind_or_size_are_refused(change: dict) -> None:
    d = HEADER.to_attrs()[ROOT_KEY] | change
    with pytest.raises(CorruptRunError) as caught:
        RunHeader.from_attrs({ROOT_KEY: d}, "x")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "change",
    [
        {"rows": -1}, {"rows": 2**62}, {"rows": "5"}, {"rows": None}, {"flushes": 1e300}, {"number": 10**6},
        {"rank": [0]}, {"scalars": "loss"}, {"scalars": ["loss"] * 2}, {"scalars": [f"s{i}" for i in range(10**5)]},
        {"status": []}, {"parent": 5}, {"parent_step": 2**63}, {"process": []}, {"dropped": [[1, 2]]},
        {"dropped": [[1, 2**70, ""]]},
        {"dropped": {"a": 1}}, {"joined": [5]}, {"snapshots": 2**62}, {"shard": 2**30}, {"head": {}}, {"opened": 3},
    ],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_segments_of_the_wrong_kind_or_size_are_refused(change: dict) -> None:
    d = SegmentHeader(rows=16, flushes=1).to_attrs()[SEGMENT_KEY] | change
    with pytest.raises(CorruptRunError) as caught:
        SegmentHeader.from_attrs({SEGMENT_KEY: d}, "x")
    assert len(str(caught.value)) < 400


def test_segments_that_contradict_the_run_are_refused() -> None:
    late = TensorInfo("v", (3,), "float32", 7)
    for segment, why in (
        (SegmentHeader(rows=20, flushes=2, shard=3), "shards of 3 chunks"),
        (SegmentHeader(joined=(late,)), "is of a group that the run does not have"),
        (SegmentHeader(rows=20, flushes=1), "need 2 to 2"),
        (SegmentHeader(rows=20, flushes=2**40), "need 2 to 2"),
        (SegmentHeader(rows=20, flushes=6, snapshots=3), "need 2 to 5"),
        (SegmentHeader(flushes=1), "need 0 to 0"),
    ):
        with pytest.raises(CorruptRunError, match=why):
            segment.require_bounds(HEADER, "x")
    for segment in (
        SegmentHeader(rows=20, flushes=2, shard=2),
        SegmentHeader(rows=20, flushes=5, snapshots=3),
        SegmentHeader(snapshots=3, flushes=1),
    ):
        segment.require_bounds(HEADER, "x")


def journal(rows: int, names: int, wide: bool = False, notes: int = 0) -> bytes:
    """A journal whose names all come with the first row, or after the last."""
    told = records.names_record([f"s{i}" for i in range(names)])
    logged = np.arange(names if wide else 0, dtype=float)
    row = records.row_record(3, 0, np.ones(1), np.ones((1, 1), np.float32), logged)
    note = b"".join(records.annotation_record(i, [names - 1], [2.5]) for i in range(notes))
    return records.head(0, "me") + (told if wide else b"") + row * rows + (b"" if wide else told) + note


def test_a_journal_does_not_unpack_to_more_than_its_rows_can_need() -> None:
    data = journal(rows=8_000, names=60_000)
    tracemalloc.start()
    try:
        read = records.read_journal(data, "me", 1, 1)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert len(read) == 8_000
    assert read.damaged
    assert read.names == []


def test_rows_after_many_names_are_bounded_too() -> None:
    data = records.head(0, "me") + records.names_record([f"s{i}" for i in range(60_000)])
    row = records.row_record(3, 0, np.ones(1), np.ones((1, 1), np.float32), np.empty(0))
    read = records.read_journal(data + row * 8_000, "me", 1, 1)
    assert read.damaged
    assert 8 * read.scalars.size <= limits.WIDENED + len(data) + 8_000 * len(row)


def test_honest_journals_with_many_scalars_are_read_whole() -> None:
    for wide in (True, False):
        read = records.read_journal(journal(rows=200, names=3_000, wide=wide, notes=200), "me", 1, 1)
        assert not read.torn
        assert read.scalars.shape == (200, 3_000)
        assert np.all(read.scalars[:, -1] == 2.5)
        assert np.all(read.scalars[:, 0] == 0) if wide else np.all(np.isnan(read.scalars[:, :-1]))


def test_an_annotation_of_a_scalar_without_a_name_changes_nothing() -> None:
    data = journal(rows=2, names=2, wide=True) + records.annotation_record(0, [2, 2**31], [9.0, 9.0])
    assert records.read_journal(data, "me", 1, 1).scalars.tolist() == [[0.0, 1.0]] * 2


def test_the_manifests_of_a_compacted_segment_are_as_many_as_it_says() -> None:
    assert split_lines(b"{}\n{}", 2, "x") == [b"{}", b"{}"]
    for count in (1, 3, 2**40):
        with pytest.raises(CorruptRunError, match="2 manifests, the segment declares"):
            split_lines(b"{}\n{}", count, "x")
