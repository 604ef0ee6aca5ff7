"""Runs are found whatever lies beside them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis.comparison.find import find, the_one
from gradlog.errors import CorruptRunError, NotARunError


def record(path: Path) -> Path:
    with gradlog.open(path, k=4, chunk=8, on_error="raise") as log:
        for t in range(3):
            log.step(np.full(5, t + 1.0))
    return path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextlib.contextmanager
def as_anybody() -> Iterator[None]:
    """Give up the superuser's right to read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_unreadable_folder_is_named_and_hides_no_other(open_folder: Path) -> None:
    run = record(open_folder / "runs" / "a.zarr")
    (open_folder / "runs" / "closed").mkdir(mode=0o000)
    with as_anybody():
        found, failed = find(open_folder)
    assert found == [str(run)]
    assert [(Path(f.path).name, f.type) for f in failed] == [("closed", "PermissionError")]


def test_links_to_runs_and_to_folders_of_runs_are_followed_once(tmp_path: Path) -> None:
    run = record(tmp_path / "store" / "job" / "a.zarr")
    views = tmp_path / "views"
    views.mkdir()
    (views / "one").symlink_to(run)
    assert find(views)[0] == [str(views / "one")]
    (views / "again").symlink_to(run)
    (views / "round").symlink_to(views)
    (views / "nowhere").symlink_to(tmp_path / "none")
    (views / "itself").symlink_to(views / "itself")
    found, failed = find(views)
    assert len(found) == 1
    assert failed == []
    other = tmp_path / "other"
    other.mkdir()
    (other / "job").symlink_to(tmp_path / "store" / "job")
    assert find(other)[0] == [str(other / "job" / "a.zarr")]


def test_a_link_does_not_lead_through_the_whole_disk(tmp_path: Path) -> None:
    record(tmp_path / "deep" / "a" / "b" / "c" / "d" / "run.zarr")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "deep")
    assert find(tmp_path / "runs")[0] == []
    assert len(find(tmp_path / "deep")[0]) == 1


def test_an_unrelated_zip_is_passed_over_and_one_of_a_run_is_found(tmp_path: Path) -> None:
    run = record(tmp_path / "a.zarr")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("images/1.png", b"")
    (tmp_path / "text.zip").write_text("no archive")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "a.zarr")
    found, failed = find(tmp_path)
    assert found == [str(run), packed]
    assert failed == []
    assert find(tmp_path / "data.zip")[0] == [str(tmp_path / "data.zip")]


@pytest.mark.parametrize("kind", ["pipe", "link", "sparse", "directory", "nested"])
def test_a_hostile_header_neither_hangs_nor_hides_the_others(tmp_path: Path, kind: str) -> None:
    run = record(tmp_path / "a.zarr")
    odd = tmp_path / "odd"
    odd.mkdir()
    if kind == "pipe":
        os.mkfifo(odd / "zarr.json")
    elif kind == "link":
        (odd / "zarr.json").symlink_to("/dev/zero")
    elif kind == "directory":
        (odd / "zarr.json").mkdir()
    else:
        with open(odd / "zarr.json", "wb") as file:
            file.write(b"[" * 100_000)
            file.truncate(2**40 if kind == "sparse" else 100_000)
    expected = [str(run)] if kind == "directory" else [str(run), str(odd)]
    assert find(tmp_path) == (expected, [])
    with pytest.raises(NotARunError if kind == "directory" else CorruptRunError):
        the_one([str(odd)])
    assert the_one([str(tmp_path)]) is None


def test_many_folders_in_each_other(tmp_path: Path) -> None:
    (tmp_path / "/".join("a" * 200)).mkdir(parents=True)
    run = record(tmp_path / "run.zarr")
    assert find(tmp_path) == ([str(run)], [])
