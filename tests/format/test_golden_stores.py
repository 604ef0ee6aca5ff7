"""Format 1 is fixed: the golden stores read as they were recorded, in this library and in a second reader."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradlog.analysis import open_run
from gradlog.analysis.audit.files import Folder
from gradlog.analysis.audit.integrity import check, examine
from gradlog.cli.app import run as command
from gradlog.errors import NewerFormatError
from gradlog.format.chain import NO_CHECK, digest, seal
from gradlog.format.header import NONFINITE, PARTIAL, SKIPPED
from gradlog.format.names import MANIFEST
from gradlog.sketching.projector import projector
from tests.helpers.golden import GOLDEN, NAMES, ROOT, SEGMENT, expected, make, same, second, segment_rows


def test_no_byte_of_a_golden_store_has_changed() -> None:
    digests = {
        p.relative_to(GOLDEN).as_posix(): hashlib.blake2b(p.read_bytes(), digest_size=32).hexdigest()
        for store in GOLDEN.glob("*.zarr")
        for p in store.rglob("*")
        if p.is_file()
    }
    assert digests == json.loads((GOLDEN / "digests.json").read_text())
    assert sorted(p.stem for p in GOLDEN.glob("*.zarr")) == sorted(NAMES) == sorted(s.__name__ for s in make.STORES)


def test_golden_stores_are_small_marked_binary_and_not_shipped() -> None:
    assert sum(p.stat().st_size for p in GOLDEN.rglob("*") if p.is_file()) < 300_000
    assert "tests/golden/*.zarr/** binary" in (ROOT / ".gitattributes").read_text().splitlines()
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert not any("tests" in part for part in [*tools["packages"], *tools["package-dir"].values()])
    assert tools["include-package-data"] is False


@pytest.mark.parametrize("name", NAMES)
def test_this_reader_gives_the_recorded_values(name: str) -> None:
    found = segment_rows(open_run(GOLDEN / f"{name}.zarr"))
    assert found.keys() == expected(name).keys()
    for segment, rows in expected(name).items():
        assert sorted(rows["names"]) == sorted(found[segment]["names"])
        order = [found[segment]["names"].tolist().index(n) for n in rows["names"].tolist()]
        assert same(rows["scalars"], found[segment]["scalars"][:, order])
        for array in rows.keys() & {"step", "flags", "norm2", "sketch", "update"}:
            assert same(rows[array], found[segment][array]), (segment, array)


@pytest.mark.parametrize("name", NAMES)
def test_the_second_reader_gives_the_recorded_values(name: str) -> None:
    found = second.Run(GOLDEN / f"{name}.zarr")
    assert found.segments.keys() == expected(name).keys()
    for segment, rows in expected(name).items():
        read = found.segments[segment]
        order = [read.names.index(n) for n in rows["names"].tolist()]
        assert same(rows["scalars"], read.rows["scalars"][:, order])
        for array in rows.keys() & {"step", "flags", "norm2", "sketch", "update"}:
            there = "group_norm2" if array == "norm2" else array
            assert same(rows[array], read.rows[there].astype(rows[array].dtype)), (segment, array)


@pytest.mark.parametrize("view", ["latest", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_both_readers_agree_on_the_views(name: str, view: Any) -> None:
    run = open_run(GOLDEN / f"{name}.zarr", view)
    found = second.Run(GOLDEN / f"{name}.zarr").view(view)
    assert same(run.steps, found["step"])
    assert same(run.rows.read(0, len(run.steps)).reshape(found["sketch"].shape), found["sketch"])


def test_the_second_reader_imports_neither_zarr_nor_gradlog() -> None:
    text = (ROOT / "tests" / "second_reader.py").read_text()
    assert not re.search(r"^\s*(import|from) (zarr|gradlog)", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["sketched", "ranks", "rounded", "killed", "halves", "placed"])
def test_a_sketch_regenerated_from_its_spec_is_the_recorded_one(name: str) -> None:
    """The map is pinned: by the second reader from the document, by this library from the header."""
    header = open_run(GOLDEN / f"{name}.zarr").header
    raw = json.loads((GOLDEN / f"{name}.zarr" / "zarr.json").read_text())["attributes"]["gradlog"]
    rows = expected(name)[SEGMENT]
    for i in (0, len(rows["step"]) - 1):
        grads = make.gradient(int(rows["step"][i]))
        out, norm2 = np.empty(rows["sketch"][i].shape, np.float32), np.empty(len(header.groups))
        projector(header.sketch, header.tensors, len(header.groups)).project(list(grads.values()), out, norm2)
        for g in range(len(header.groups)):
            tensors = {t["name"]: grads[t["name"]] for t in raw["tensors"] if t["group"] == g}
            places = {t["name"]: t["place"] for t in raw["tensors"] if "place" in t}
            again = second.round_bits(second.fold_hash(raw["sketch"], tensors, places), raw["sketch_bits"])
            assert same(again, rows["sketch"][i, g])
            assert same(again, second.round_bits(out[g], raw["sketch_bits"]))


def test_snapshots_of_the_parameters_are_sketches_by_the_same_map() -> None:
    rows, raw = expected("sketched")[SEGMENT], second.Run(GOLDEN / "sketched.zarr")
    found = raw.segments[SEGMENT].snapshots
    assert list(found) == rows["theta_step"].tolist()
    assert same(np.stack(list(found.values())), rows["theta"])
    tensors = {t["name"]: make.gradient(2000)[t["name"]] for t in raw.header["tensors"] if t["group"] == 1}
    assert same(second.fold_hash(raw.header["sketch"], tensors), found[21][1])


@pytest.mark.parametrize(("store", "group"), [("joined", 1), ("placed", 0)])
def test_a_parameter_that_joined_is_part_of_the_later_segment_only(store: str, group: int) -> None:
    raw = second.Run(GOLDEN / f"{store}.zarr")
    (new,) = raw.segments["seg-000001-r0000"].header["joined"]
    assert (new["name"], new["shape"], new["group"]) == ("h.1.weight", [6, 5], group)
    grads = make.gradient(7, {**make.SHAPES, "h.1.weight": (6, 5)})
    names = [t["name"] for t in [*raw.header["tensors"], new] if t["group"] == group]
    again = second.fold_hash(raw.header["sketch"], {n: grads[n] for n in names})
    assert same(again, expected(store)["seg-000001-r0000"]["sketch"][1, group])


def test_small_groups_of_the_second_map_are_stored_without_error() -> None:
    found = second.Run(GOLDEN / "placed.zarr")
    for group, names in ((1, ["h.0.weight", "h.0.bias"]), (2, ["head"])):
        for t, row in enumerate(found.segments[SEGMENT].rows["sketch"][:, group]):
            true = np.concatenate([make.gradient(t)[name].ravel() for name in names])
            assert same(np.sort(np.abs(row))[-len(true) :], np.sort(np.abs(true)))
            assert not np.sort(np.abs(row))[: -len(true)].any()


def test_another_seed_gives_another_sketch() -> None:
    spec = {"kind": "fold-hash/1", "k": 8, "m": 32768, "seed": 6}
    g = make.gradient(0)
    assert not np.array_equal(second.fold_hash(spec, g), second.fold_hash(spec | {"seed": 5}, g))


def test_the_second_reader_finds_the_halves_of_a_batch() -> None:
    """By docs/format.md alone: the squared distance of the halves, known from the gradients of two steps."""
    segment = second.Run(GOLDEN / "halves.zarr").segments["seg-000000-r0000"]
    found = np.stack([segment.rows["scalars"][:, segment.names.index(f"half_norm2:{g}")] for g in range(2)], axis=1)
    assert np.isnan(found[:3]).all()
    for t in range(3, 20):
        square = {n: np.square(make.gradient(t + 1)[n] - x, dtype=float).sum() for n, x in make.gradient(t).items()}
        rest = sum(x for name, x in square.items() if name != "embed.weight")
        assert found[t].tolist() == [square["embed.weight"], rest]


def test_labels_and_lineage_of_the_golden_stores() -> None:
    sketched = open_run(GOLDEN / "sketched.zarr")
    assert {int(t): int(f) for t, f in zip(sketched.steps, sketched.flags, strict=True) if f} == {
        4: NONFINITE,
        9: SKIPPED,
        13: PARTIAL,
    }
    assert sketched.info["provenance"]["notes"] == {"batch_size": 32}
    ranks = open_run(GOLDEN / "ranks.zarr")
    assert ranks.steps.tolist() == list(range(18))
    assert ranks.info["abandoned"] == 8
    assert len(open_run(GOLDEN / "ranks.zarr", "all").steps) == 26
    # Two ranks each: steps 12 to 15 repeated themselves, 16 and 17 did not.
    relogged = ranks.info["relogged"]
    assert (relogged["steps"], relogged["identical"], relogged["first_different"]) == (12, 8, 16)
    assert 0 < relogged["largest_difference"] < 1
    killed = open_run(GOLDEN / "killed.zarr").info
    assert (killed["status"], killed["steps"], killed["journal_rows"]) == ("recording", 21, 5)


def test_the_command_line_tells_what_was_logged_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["info", str(GOLDEN / "ranks.zarr")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "12 steps logged again after a rewind, 8 of them with identical norms, not step 16" in out
    assert command(["audit", str(GOLDEN / "ranks.zarr")]) == 0
    assert "the first other one is step 16" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_golden_stores_pass_the_audit(name: str) -> None:
    found = check(GOLDEN / f"{name}.zarr")
    assert found.problems == []
    cut = ["cut short by a kill"]
    words = {"killed": cut, "updates": cut, "ranks": ["12 steps were logged again"]}.get(name, [])
    assert len(found.notes) == len(words)
    assert all(word in note for word, note in zip(words, found.notes, strict=True))
    assert command(["audit", str(GOLDEN / f"{name}.zarr")]) == 0


def rebase(path: Path, version: str) -> None:
    """Write another format version, and fields of the future, into a store, with all digests made anew."""
    root = json.loads((path / "zarr.json").read_bytes())
    root["attributes"]["gradlog"] |= {"format": version, "colour": "blue"}
    (path / "zarr.json").write_text(json.dumps(root))
    for folder in path.glob("seg-*"):
        meta = json.loads((folder / "zarr.json").read_bytes())
        segment = meta["attributes"]["gradlog_segment"]
        head = digest((path / "zarr.json").read_bytes())
        segment |= {"root": head, "taste": "sweet", "check": NO_CHECK}
        for i in range(segment["flushes"]):
            manifest = folder / MANIFEST.format(i)
            document = json.loads(manifest.read_bytes()) | {"prev": head, "format": version, "sound": "low"}
            manifest.write_text(json.dumps(document))
            head = digest(manifest.read_bytes())
        segment["head"] = head
        (folder / "zarr.json").write_bytes(seal(json.dumps(meta, separators=(",", ":")).encode()))


@pytest.mark.parametrize("name", ["sketched", "ranks", "killed"])
def test_a_newer_minor_version_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r.zarr"
    shutil.copytree(GOLDEN / f"{name}.zarr", path)
    rebase(path, "1.7")
    run = open_run(path)
    assert run.info["format"] == "1.7"
    for segment, rows in expected(name).items():
        assert same(rows["sketch"], segment_rows(run)[segment]["sketch"])
    assert examine(Folder(path)).problems == []


def test_a_newer_major_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.zarr"
    shutil.copytree(GOLDEN / "sketched.zarr", path)
    rebase(path, "2.0")
    with pytest.raises(NewerFormatError, match="upgrade with: pip install -U gradlog-zarr"):
        open_run(path)
    assert command(["info", str(path)]) == 3
    assert "format 2.0" in capsys.readouterr().err


def test_the_script_still_writes_the_same_rows(tmp_path: Path) -> None:
    for write in make.STORES:
        rows = write(tmp_path / f"{write.__name__}.zarr")
        found = segment_rows(open_run(tmp_path / f"{write.__name__}.zarr"))
        for segment, there in expected(write.__name__).items():
            for array in there.keys() - {"names", "norm2", "theta", "theta_step"}:
                assert same(rows[segment][array], there[array]), (segment, array)
            assert same(found[segment]["sketch"], there["sketch"])
            np.testing.assert_allclose(found[segment]["norm2"], there["norm2"], rtol=1e-6)
