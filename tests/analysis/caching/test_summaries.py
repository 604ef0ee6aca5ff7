"""Analyses that remember: only new chunks are read, and not one bit differs."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import gradlog
from gradlog.analysis import analyze, open_run
from gradlog.analysis.caching import summaries
from gradlog.analysis.caching.cache import Cache, default_folder, digest_of_code, key, resolve
from gradlog.analysis.caching.summaries import Memo, pack, unpack
from gradlog.analysis.reading import rows
from gradlog.analysis.streaming import schedule
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.summary import Summary
from tests.helpers.growing_runs import gradients


def same(one, other):
    """Equal to the last bit, but for what says where the numbers came from."""
    xr.testing.assert_identical(one.drop_attrs(deep=False), other.drop_attrs(deep=False))
    for name in ("warnings", "bound_inputs", "svd_passes", "svd_certificate"):
        assert one.attrs[name] == other.attrs[name]


@pytest.mark.parametrize(
    "options",
    [{}, {"window": 100, "prefixes": 3}, {"window": 40, "light": True}, {"svd": "nystrom"}, {"burn_in": 21}],
)
def test_a_known_run_is_not_read_and_gives_the_same_bits(tmp_path, record, small_blocks, rows_read, options):
    path = record(tmp_path / "r.zarr", 0, 600)
    plain = analyze(str(path), cache=False, **options)
    rows_read.clear()
    first = analyze(str(path), cache=True, **options)
    assert set(rows_read) == set(range(600))
    rows_read.clear()
    second = analyze(str(path), cache=True, **options)
    assert rows_read == []
    same(first, plain)
    same(second, plain)
    assert first.attrs["cached_rows"] == 0
    assert second.attrs["cached_rows"] >= 600


def test_a_run_that_grew_costs_only_its_new_chunks(tmp_path, record, small_blocks, rows_read):
    path = tmp_path / "r.zarr"
    for old, new in ((0, 522), (522, 544), (544, 640)):
        record(path, old, new)
        rows_read.clear()
        grown = analyze(str(path), cache=True)
        # every block ends with a chunk; the last one of the shorter run was shorter than a chunk
        assert set(rows_read) == set(range(old // 16 * 16, new))
        assert len(rows_read) == new - old // 16 * 16
        same(grown, analyze(str(path), cache=False))


def test_once_in_a_doubling_a_grown_run_is_read_anew_for_its_longer_sections(tmp_path, record, small_blocks, rows_read):
    path = record(tmp_path / "r.zarr", 0, 640)
    analyze(str(path), cache=True)
    record(path, 640, 660)
    rows_read.clear()
    grown = analyze(str(path), cache=True)
    assert set(rows_read) == set(range(660))
    same(grown, analyze(str(path), cache=False))


def test_panes_are_made_some_at_a_time(tmp_path, record, small_blocks, monkeypatch):
    path = str(record(tmp_path / "r.zarr", 0, 500))
    plain = analyze(path, window=40, cache=False)
    monkeypatch.setattr(summaries, "BATCH", 3)
    same(analyze(path, window=40, cache=True), plain)


def test_progress_goes_from_nothing_to_all_whatever_is_known(tmp_path, record, small_blocks):
    path = tmp_path / "r.zarr"
    for old, new in ((0, 330), (330, 500), (500, 500)):
        record(path, old, new)
        told = []
        analyze(str(path), window=100, cache=True, progress=lambda *x, told=told: told.append(x))
        assert told == sorted(told)
        assert told[0][0] == 0
        assert told[-1][0] == told[-1][1] == told[0][1]


def test_a_live_run_grows_within_its_segment(tmp_path, small_blocks, rows_read):
    path = tmp_path / "r.zarr"
    like = next(gradients(0, 1))
    with gradlog.open(path, like=like, k=16, chunk=16, groups="tensors", on_error="raise") as log:
        for t, grads in enumerate(gradients(0, 620)):
            log.step(grads)
            if t in (530, 600):
                rows_read.clear()
                here = analyze(str(path), cache=True)
                assert int(here.rows) == t + 1
                assert set(rows_read) <= set(range(0 if t == 530 else 512, t + 1))
                same(here, analyze(str(path), cache=False))
    rows_read.clear()
    same(analyze(str(path), cache=True), analyze(str(path), scheduler="synchronous", cache=False))
    assert len(rows_read) - 620 <= 620 - 576 + 16


def test_compaction_copies_and_moves_keep_what_is_known(tmp_path, record, small_blocks, rows_read):
    path = record(tmp_path / "r.zarr", 0, 640)
    analyze(str(path), cache=True)
    moved = shutil.copytree(path, tmp_path / "elsewhere.zarr")
    from gradlog.storage.compact import compact

    compact(moved)
    rows_read.clear()
    analyze(str(moved), cache=True)
    assert rows_read == []


def test_other_questions_share_nothing(tmp_path, record, small_blocks, rows_read):
    path = record(tmp_path / "r.zarr", 0, 160)
    analyze(str(path), ["last"], cache=True)
    for options in ({"predictors": ["ema(0.5)"]}, {"svd": "nystrom"}, {"null_rank": False}):
        rows_read.clear()
        analyze(str(path), cache=True, **{"predictors": ["last"], **options})
        assert set(rows_read) == set(range(160))


def test_two_runs_of_the_same_shape_share_nothing(tmp_path, record, small_blocks):
    for seed in (0, 1):
        path = record(tmp_path / f"{seed}.zarr", 0, 160, seed=seed)
        found = analyze(str(path), cache=True)
        assert found.attrs["cached_rows"] == 0
        same(found, analyze(str(path), cache=False))


def test_rows_with_gaps_and_nan_and_an_abandoned_branch(tmp_path, record, small_blocks):
    path = record(tmp_path / "r.zarr", 0, 200)
    record(path, 150, 260, first_step=150)
    with gradlog.open(path, mode="a", like=next(gradients(0, 1)), k=16, chunk=16, groups="tensors") as log:
        for t in range(270, 330):
            grads = next(gradients(t, t + 1))
            if t == 300:
                grads["a"][3] = np.nan
            log.step(grads, step=t)
    plain = analyze(str(path), cache=False)
    for _ in range(2):
        same(analyze(str(path), cache=True), plain)
    run = open_run(str(path), view="all")
    same(analyze(run, cache=True), analyze(run, cache=False))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "noise"])
def test_damaged_entries_are_ignored_and_written_again(tmp_path, record, small_blocks, cache_folder, damage):
    path = record(tmp_path / "r.zarr", 0, 320)
    plain = analyze(str(path), cache=True)
    rng = np.random.default_rng(1)
    entries = sorted(cache_folder.glob("*/*.entry"))
    assert len(entries) > 1
    before = {e: e.read_bytes() for e in entries}
    for entry, data in before.items():
        spot = int(rng.integers(len(data)))
        changed = {"flip": data[:spot] + bytes([data[spot] ^ 16]) + data[spot + 1 :], "cut": data[:spot],
                   "empty": b"", "noise": rng.bytes(len(data))}  # fmt: skip
        entry.write_bytes(changed[damage])
    again = analyze(str(path), cache=True)
    assert again.attrs["cached_rows"] == 0
    same(again, plain)
    assert analyze(str(path), cache=True).attrs["cached_rows"] == 320


def test_a_run_without_manifests_is_analyzed_and_not_remembered(tmp_path, record, small_blocks, cache_folder):
    path = record(tmp_path / "r.zarr", 0, 160)
    (path / "seg-000000-r0000" / "manifest" / "000003.json").write_text("{}")
    for _ in range(2):
        assert analyze(str(path), cache=True).attrs["cached_rows"] == 0
    assert not list(cache_folder.glob("*/*.entry"))


def test_a_forged_manifest_is_not_believed(tmp_path, record, small_blocks):
    """A chunk's name in a manifest counts only if the chain of manifests ends at the commit record."""
    path = record(tmp_path / "r.zarr", 0, 160)
    analyze(str(path), cache=True)
    other = record(tmp_path / "other.zarr", 0, 160, seed=1)
    manifest = "seg-000000-r0000/manifest/000009.json"
    shutil.copy(path / manifest, other / manifest)
    assert analyze(str(other), cache=True).attrs["cached_rows"] == 0


def test_the_folder_stays_within_its_limit_and_loses_the_oldest(tmp_path):
    store = Cache(tmp_path / "c", limit=100_000)
    names = [key("n", i) for i in range(30)]
    for i, name in enumerate(names):
        store.put(name, {"x": np.zeros(1000)})
        if i > 5:
            assert store.get(names[5]) is not None  # in use: stays
    store.trim()
    assert sum(f.stat().st_size for f in store.folder.glob("*/*")) <= 100_000
    kept = [name for name in names if store.get(name) is not None]
    assert names[5] in kept
    assert kept[1:] == names[-len(kept) + 1 :]
    store.put(key("large"), {"x": np.zeros(10_000)})  # over a quarter of the limit
    assert store.get(key("large")) is None


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path, record, small_blocks):
    path = record(tmp_path / "r.zarr", 0, 100)
    (tmp_path / "file").write_text("")
    same(analyze(str(path), cache=tmp_path / "file" / "c"), analyze(str(path)))


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADLOG_CACHE", str(tmp_path / "x"))
    assert default_folder() == tmp_path / "x"
    monkeypatch.delenv("GRADLOG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert default_folder() == tmp_path / "gradlog"
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_folder().parts[-3:] == ("Library", "Caches", "gradlog")


def test_a_user_without_a_home_keeps_nothing(monkeypatch, tmp_path, record):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    path = record(tmp_path / "r.zarr", 0, 100)
    for name in ("GRADLOG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert resolve(True) is None
    same(analyze(str(path)), analyze(str(path), cache=False))


@pytest.fixture
def installed(tmp_path):
    """A copy of the package, as a wheel lays it out."""
    package = tmp_path / "site" / "gradlog"
    plain = shutil.ignore_patterns("__pycache__", "analysis", "cli")
    shutil.copytree(Path(gradlog.__file__).parent, package, ignore=plain)
    shutil.copytree(Path(gradlog.analysis.__file__).parent, package / "analysis")
    return package


def test_keys_are_of_the_code_and_not_of_its_place(installed):
    checkout = Path(gradlog.__file__).parent, Path(gradlog.analysis.__file__).parent
    assert digest_of_code(installed, installed / "analysis") == digest_of_code(*checkout)


@pytest.mark.parametrize(
    "name",
    ["analysis/caching/cache.py", "analysis/report/page.py", "sketching/fold_hash.py", "analysis/audit/checks/new.py"],
)
def test_a_changed_module_at_any_depth_changes_every_key(installed, name):
    before = digest_of_code(installed, installed / "analysis")
    with open(installed / name, "a") as module:
        module.write("#")
    assert digest_of_code(installed, installed / "analysis") != before


def test_a_moved_module_changes_every_key_and_an_integration_none(installed):
    before = digest_of_code(installed, installed / "analysis")
    with open(installed / "integrations" / "keras.py", "a") as module:
        module.write("#")
    assert digest_of_code(installed, installed / "analysis") == before
    shutil.move(installed / "analysis" / "measures" / "bounds.py", installed / "analysis" / "report" / "bounds.py")
    assert digest_of_code(installed, installed / "analysis") != before


def test_the_cache_holds_no_pickle(tmp_path):
    store = Cache(tmp_path)
    with pytest.raises(ValueError, match="got one of objects"):
        store.put(key("a"), {"x": np.array([print], dtype=object)})
    assert not list(tmp_path.glob("*/*"))


def test_entries_come_back_as_they_were_and_can_be_added_to(tmp_path):
    arrays = {
        "number": np.array(3.0), "flag": np.array(True), "nothing": np.empty((0, 5)), "names": np.array(["a", "bc"]),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }  # fmt: skip
    store = Cache(tmp_path)
    store.put(key("a"), arrays)
    back = store.get(key("a"))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, strict=True)
        assert back[name].flags.writeable


@pytest.mark.parametrize(
    "line",
    [
        '[["x", "O", [1]]]',
        '[["x", "<f8", [2]]]',
        '[["x", "<f8", [-1]]]',
        '[["x", "<f8", [1]], ["y", "V0", [1]]]',
        "[]",
        "[",
    ],
)
def test_entries_that_say_another_size_are_as_good_as_absent(tmp_path, line):
    store, body = Cache(tmp_path), f"{line}\n12345678".encode()
    store.put(key("a"), {"x": np.zeros(1)})
    (file,) = tmp_path.glob("*/*.entry")
    file.write_bytes(hashlib.blake2b(body, digest_size=32).digest() + body)
    assert store.get(key("a")) is None


def test_every_field_of_a_summary_survives():
    recipe = Recipe(2, 3, betas=(0.5,), gram="groups", pooled=True, scatter=True)
    summary = schedule.summarise(np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32), recipe)
    back = unpack(pack(summary), recipe)
    assert vars(back).keys() == vars(summary).keys()
    for name, array in pack(summary).items():
        np.testing.assert_array_equal(pack(back)[name], array)
        assert pack(back)[name].dtype == array.dtype
    assert unpack(pack(summary), Recipe(2, 3, betas=(0.5,))) is None
    summary.extra = object()
    with pytest.raises(TypeError, match="no plain array"):
        pack(summary)


def _hammer(folder, seed):
    store, rng = Cache(folder, limit=200_000), np.random.default_rng(seed)
    for _ in range(300):
        i = int(rng.integers(40))
        found = store.get(key("h", i))
        assert found is None or (found["x"] == i).all()
        store.put(key("h", i), {"x": np.full(1000 + i, i)})
        if rng.random() < 0.1:
            store.trim()


@pytest.mark.slow
def test_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_hammer, args=(tmp_path / "c", seed)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert not list((tmp_path / "c").glob("*/*.partial"))


def test_summaries_larger_than_their_rows_are_not_kept(tmp_path, record, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_BYTES", 1)
    monkeypatch.setattr(rows, "BUFFER_BYTES", 1)
    run = open_run(str(record(tmp_path / "r.zarr", 0, 2000)))
    store = Cache(tmp_path / "c")
    recipe = Recipe(2, 16)
    schedule.compute(run.rows, run.contiguous_ranges, [0, 2000], recipe, memo=Memo(store, run))
    written = sum(f.stat().st_size for f in store.folder.glob("*/*"))
    assert 0 < written < 4 * 32 * 2000
    assert Summary(recipe).nbytes > 4 * 32 * 16  # of one block, then, nothing was kept
