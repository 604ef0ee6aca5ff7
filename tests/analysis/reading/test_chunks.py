"""Columns read file by file are what zarr reads, and damage is still damage."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from gradlog.analysis import open_run
from gradlog.analysis.reading.store import chunks
from gradlog.errors import CorruptRunError
from gradlog.storage.compact import compact


def arrays(path):
    group = zarr.open_group(path / "seg-000000-r0000", mode="r", use_consolidated=True)
    return [group[name] for name in ("step", "flags")]


@pytest.mark.parametrize("rows", [1, 16, 17, 100])
def test_same_as_zarr(tmp_path, record, rows):
    path = record(tmp_path / "r.zarr", 0, rows)
    for array in arrays(path):
        found = chunks.read(array)
        np.testing.assert_array_equal(found, array[:])
        assert found.dtype == array.dtype
    group = zarr.open_group(path / "seg-000000-r0000", mode="r", use_consolidated=True)
    (path / "seg-000000-r0000" / "sketch" / "c.99.0.0").write_bytes(b"")  # not committed yet
    for array in (group[name] for name in ("sketch", "group_norm2", "scalars", "step", "flags")):
        assert chunks.stored(array) == (array.nbytes_stored(), array.nchunks_initialized)
    (path / "seg-000000-r0000" / "sketch" / "c.99.0.0").unlink()
    compact(path)
    for array in arrays(path):
        assert chunks.local_folder(array) is None
        np.testing.assert_array_equal(chunks.read(array), array[:])


@pytest.mark.parametrize("column", ["step", "flags"])
def test_damage_and_absence_are_refused(tmp_path, record, column):
    path = record(tmp_path / "r.zarr", 0, 100)
    chunk = path / "seg-000000-r0000" / column / "c.2"
    whole = chunk.read_bytes()
    for spot in (0, len(whole) // 2, len(whole) - 1):
        chunk.write_bytes(whole[:spot] + bytes([whole[spot] ^ 4]) + whole[spot + 1 :])
        with pytest.raises(CorruptRunError, match=f"{column}: cannot be decoded"):
            open_run(path)
    chunk.write_bytes(b"")
    with pytest.raises(CorruptRunError):
        open_run(path)
    chunk.unlink()
    with pytest.raises(CorruptRunError, match="chunk files are missing"):
        open_run(path)


def test_a_temporary_file_that_gets_its_name_meanwhile_is_no_error(tmp_path, record):
    path = record(tmp_path / "r.zarr", 0, 100)
    (path / "seg-000000-r0000" / "step" / "c.9.1-2.partial").symlink_to("gone")
    for array in arrays(path):
        assert chunks.stored(array)[1] == array.nchunks
    assert len(open_run(path).steps) == 100
