"""Compaction keeps every byte, every digest and the chain; a kill in the middle of it loses nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.files import Folder
from gradlog.analysis.audit.integrity import examine
from gradlog.analysis.reading.store.bounded_stores import BoundedFolder
from gradlog.errors import CorruptRunError, NotARunError, UnsupportedError
from gradlog.format import shards
from gradlog.recorder.recovery import recover
from gradlog.storage.compact import compact
from gradlog.storage.sink import LocalSink

SEGMENT = "seg-000000-r0000"


def record(path: Path, steps: int = 100, **options: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    with gradlog.open(path, k=16, chunk=16, on_error="raise", **options) as log:
        for t in range(steps):
            late = {f"s{i}": float(i) for i in range(20)} if t > steps // 2 else {}
            log.step({"a": rng.normal(size=200), "b": rng.normal(size=30)}, loss=float(t), **late)
    return rows(path)


def rows(path: Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(path / SEGMENT, mode="r", use_consolidated=True)
    return {name: group[name][:] for name in ("sketch", "group_norm2", "scalars", "step", "flags")}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f") for name in a)


@given(st.lists(st.none() | st.binary(min_size=1, max_size=50), min_size=1, max_size=9))
def test_shard_round_trip(chunks: list[bytes | None]) -> None:
    assert shards.unpack(b"".join(shards.pack(chunks, len(chunks))), len(chunks)) == chunks


@given(st.binary(max_size=80), st.integers(1, 4))
def test_random_bytes_are_no_shard(data: bytes, count: int) -> None:
    with pytest.raises(ValueError, match="shard"):
        shards.unpack(data, count)


@pytest.mark.parametrize("options", [{}, {"sketch_bits": 12}, {"shard_bytes": 3 * 16 * 2 * 16 * 4}])
def test_rows_stay_and_files_go(tmp_path: Path, options: dict[str, int]) -> None:
    path = tmp_path / "run.zarr"
    shard_bytes = options.pop("shard_bytes", 2**20)
    before = record(path, **options)
    (result,) = compact(path, shard_bytes)
    assert result.after < result.before / 2
    assert same(before, rows(path))
    assert examine(Folder(path)).problems == []


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    record(path)
    compact(path)
    (again,) = compact(path)
    assert again.skipped == "is compact already"
    assert again.before == again.after


def test_killed_at_any_write_it_can_be_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    put = LocalSink.put
    for survived in range(100):
        path = tmp_path / f"{survived}.zarr"
        before = record(path, steps=40)
        calls = 0

        def stops(self: LocalSink, key: str, data: object, limit: int = survived) -> None:
            nonlocal calls
            if calls == limit:
                raise Killed
            calls += 1
            put(self, key, data)

        monkeypatch.setattr(LocalSink, "put", stops)
        try:
            compact(path)
        except Killed:
            monkeypatch.setattr(LocalSink, "put", put)
            assert same(before, rows(path))
            compact(path)
            assert same(before, rows(path))
            assert examine(Folder(path)).problems == []
        else:
            break
        finally:
            monkeypatch.setattr(LocalSink, "put", put)
    assert survived > 5


def test_leftovers_of_a_kill_after_the_commit_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    record(path)
    old = (path / SEGMENT / "step/c.0").read_bytes()
    compact(path)
    (path / SEGMENT / "step/c.0").write_bytes(old)
    assert "1 files of a compaction that was cut off" in "".join(examine(Folder(path)).notes)
    compact(path)
    assert examine(Folder(path)).problems == []


def test_damage_is_found_before_anything_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    record(path)
    chunk = path / SEGMENT / "sketch/c.2.0.0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(CorruptRunError, match=r"sketch/c\.2\.0\.0: bytes contradict"):
        compact(path)
    assert chunk.read_bytes() == bytes(data)


@pytest.mark.parametrize("at", [10, -10, -30])
def test_damage_in_a_shard_is_found(tmp_path: Path, at: int) -> None:
    path = tmp_path / "run.zarr"
    record(path)
    compact(path)
    shard = path / SEGMENT / "sketch/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[at] ^= 1
    shard.write_bytes(data)
    assert any("sketch/c" in problem for problem in examine(Folder(path)).problems)


def test_neighbours_in_a_shard_are_checked_one_by_one(tmp_path: Path) -> None:
    """zarr 3.2 and later ask for several parts of a shard in one call, and would join those that touch."""
    path, key = tmp_path / "run.zarr", f"{SEGMENT}/sketch/c/0/0/0"
    record(path)
    compact(path)
    (segment,) = open_run(path).segments
    store = BoundedFolder(path, read_only=True)
    store.expect(segment.run, segment.header)
    chunks = [bytes(chunk) for chunk in shards.unpack((path / key).read_bytes(), segment.header.shard)[:2] if chunk]
    cut = len(chunks[0])
    parts = [RangeByteRequest(0, cut), RangeByteRequest(cut, cut + len(chunks[1]))]

    async def read() -> list[tuple[int, Any]]:
        return [found async for group in store.get_ranges(key, parts, prototype=prototype) for found in group]

    prototype = default_buffer_prototype()
    for found in (asyncio.run(read()), store.get_ranges_sync(key, parts, prototype=prototype)):
        assert [(i, part.to_bytes()) for i, part in found] == list(enumerate(chunks))


def test_a_live_segment_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    with gradlog.open(path, k=8, chunk=4, on_error="raise") as log:
        for _ in range(10):
            log.step(np.ones(30))
        (result,) = compact(path)
        assert result.skipped == "has no rows" or "written to" in result.skipped
        log.step(np.ones(30))
    (result,) = compact(path)
    assert result.skipped == ""
    assert len(rows(path)["step"]) == 11


def test_only_local_runs(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="only local runs"):
        compact("memory://run.zarr")
    with pytest.raises(NotARunError):
        compact(tmp_path)


@pytest.mark.parametrize("verb", ["resume", "recover", "rewind"])
def test_a_compacted_run_goes_on(tmp_path: Path, verb: str) -> None:
    """As it would have without compaction: same next step, same parent, same rows."""
    for path in (tmp_path / "plain.zarr", tmp_path / "compact.zarr"):
        record(path, 40)
        with gradlog.open(path, k=16, chunk=16, mode="a", on_error="raise") as log:
            log.step({"a": np.ones(200), "b": np.ones(30)})
            state = log.state_dict()
        if path.stem == "compact":
            assert [c.skipped for c in compact(path)] == ["", ""]
        if verb == "recover":
            assert [(r.status, r.rows, r.live) for r in recover(path)] == [("closed", 0, False)] * 2
        like = {"a": np.zeros(200), "b": np.zeros(30)}
        with gradlog.open(path, like=like, k=16, chunk=16, mode="a", on_error="raise") as log:
            if verb == "rewind":
                log.load_state_dict(state | {"step": 30})
            log.step({"a": np.full(200, 2.0), "b": np.ones(30)})
    plain, other = (open_run(tmp_path / f"{name}.zarr") for name in ("plain", "compact"))
    assert plain.steps.tolist() == other.steps.tolist() == list(range(31 if verb == "rewind" else 42))
    assert np.array_equal(plain.sketch.compute(), other.sketch.compute())
    assert [s.header.parent_step for s in plain.segments] == [s.header.parent_step for s in other.segments]
    assert examine(Folder(tmp_path / "compact.zarr")).problems == []


def test_a_compaction_that_was_cut_off_leaves_nothing_after_the_next(tmp_path: Path) -> None:
    """Shards of another size, and files that were not whole."""
    path = tmp_path / "run.zarr"
    record(path)
    (path / SEGMENT / "sketch/c/5/0").mkdir(parents=True)
    (path / SEGMENT / "sketch/c/5/0/0").write_bytes(b"of a compaction with smaller shards")
    (path / SEGMENT / "sketch/c/5/0/0.12-ab.partial").write_bytes(b"half")
    compact(path)
    assert examine(Folder(path)).problems == []
    assert not list(path.rglob("*.partial"))


def test_manifests_that_readers_would_refuse_in_one_file_are_left_as_they_are(tmp_path: Path) -> None:
    path, steps = tmp_path / "run.zarr", 66
    with gradlog.open(path, like=np.zeros(3), k=1, chunk=1, on_error="raise", journal=False) as log:
        for _ in range(steps):
            log.step(np.ones(3), **{"x" * (2**20 - 100): 1.0})
    (done,) = compact(path)
    assert done.after == done.before
    assert done.skipped.endswith("bytes, in one file readers take 67,108,864 at most")
    assert len(open_run(path).steps) == steps
