"""Known strangers' stores, every verb on each in a process of its own: exit status, seconds and memory are bounded."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gradlog.format import journal
from gradlog.format.header import ROOT_KEY, SEGMENT_KEY
from gradlog.format.names import META
from tests.helpers.json_edits import dump
from tests.helpers.small_run import environment
from tests.stories.hostile import fuzz, harm

SEGMENT = "seg-000000-r0000"


def header_field(path: Path, name: str, value: object) -> None:
    file = path / META
    document = json.loads(file.read_bytes())
    document["attributes"][ROOT_KEY][name] = value
    file.write_bytes(dump(document))
    harm.reseal(path)


def segment_fields(path: Path, **fields: object) -> None:
    file = path / SEGMENT / META
    document = json.loads(file.read_bytes())
    document["attributes"][SEGMENT_KEY].update(fields)
    file.write_bytes(dump(document))
    harm.reseal(path)


def instead(key: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Exchange a file for something else."""

    def change(path: Path) -> None:
        (path / key).unlink()
        make(path / key)

    return change


def sparse(file: Path) -> None:
    with open(file, "wb") as hole:
        hole.truncate(2**40)


def journal_bomb(path: Path) -> None:
    folder = path / "seg-000001-r0000"
    uuid = json.loads((path / META).read_bytes())["attributes"][ROOT_KEY]["uuid"]
    row = journal.row_record(25, 0, np.ones(2), np.ones((2, 8), np.float32), np.empty(0))
    names = journal.names_record([f"s{i}" for i in range(60_000)])
    notes = b"".join(journal.annotation_record(i, [59_999], [1.0]) for i in range(2_000))
    (folder / ".journal-000000").write_bytes(
        journal.head(0, journal.owner(uuid, folder.name)) + row * 2_000 + names + notes
    )


HUGE = {"name": "a", "shape": [10**30], "dtype": "float32", "group": 0}

STORES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "zarr.json is a pipe": ("plain", instead("zarr.json", os.mkfifo)),
    "zarr.json is /dev/zero": ("plain", instead("zarr.json", lambda file: file.symlink_to("/dev/zero"))),
    "zarr.json is sparse": ("plain", instead("zarr.json", sparse)),
    "zarr.json is nested": ("plain", instead("zarr.json", lambda file: file.write_bytes(b'{"attributes":' * 10**5))),
    "a segment's zarr.json is a pipe": ("plain", instead(f"{SEGMENT}/zarr.json", os.mkfifo)),
    "a manifest is a pipe": ("plain", instead(f"{SEGMENT}/manifest/000000.json", os.mkfifo)),
    "a chunk is a pipe": ("plain", instead(f"{SEGMENT}/step/c.0", os.mkfifo)),
    "a chunk is sparse": ("plain", instead(f"{SEGMENT}/sketch/c.0.0.0", sparse)),
    "a shard is a pipe": ("compact", instead(f"{SEGMENT}/step/c/0", os.mkfifo)),
    "the manifests are sparse": ("compact", instead(f"{SEGMENT}/manifest/all.jsonl", sparse)),
    "10^6 rows": ("plain", lambda path: segment_fields(path, rows=10**6, flushes=125_000)),
    "2^62 rows": ("plain", lambda path: segment_fields(path, rows=2**62)),
    "2^47 rows in shards": ("compact", lambda path: segment_fields(path, rows=2**47, shard=2**23)),
    "2^40 flushes": ("plain", lambda path: segment_fields(path, flushes=2**40)),
    "2^40 snapshots": ("plain", lambda path: segment_fields(path, snapshots=2**40)),
    "10^5 scalars": ("plain", lambda path: segment_fields(path, scalars=[f"s{i}" for i in range(10**5)])),
    "10^5 groups": ("plain", lambda path: header_field(path, "groups", [f"g{i}" for i in range(10**5)])),
    "a tensor of 10^30": ("plain", lambda path: header_field(path, "tensors", [HUGE])),
    "a list for versions": ("plain", lambda path: header_field(path, "provenance", {"versions": [1]})),
    "a journal that unpacks to 1 GB": ("journal", journal_bomb),
}  # fmt: skip
"""Name: kind of run, and what is done to it. None of them may be taken for a sound run."""

DECLARED = {"10^6 rows", "2^62 rows", "2^47 rows in shards", "2^40 flushes"}
"""Stores that every verb refuses which looks into segments: their headers contradict themselves, or the files."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    for kind in harm.KINDS:
        harm.write(folder / kind, kind)
    return folder


@pytest.mark.parametrize("name", STORES)
def test_no_verb_takes_it_for_a_sound_run(
    runs: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, change = STORES[name]
    for folder in ("outside", "out", "cache", "spool"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("GRADLOG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GRADLOG_SPOOL", str(tmp_path / "spool"))
    for verb in (*fuzz.READ, *fuzz.WRITE):
        path = tmp_path / "runs" / "run.zarr"
        shutil.copytree(runs / kind, path)
        change(path)
        fault = fuzz.judge(verb, path, runs / "plain", tmp_path)
        assert not fault, f"{verb}: {fault}"
        if verb in ("audit", "info") or (name in DECLARED and verb not in ("digest", "find")):
            assert fuzz.perform(verb, path, runs / "plain", tmp_path / "out")[0] in (1, 3), verb
        shutil.rmtree(path.parent)


def test_compact_refuses_snapshots_that_no_manifest_lists(runs: Path, tmp_path: Path) -> None:
    path = shutil.copytree(runs / "plain", tmp_path / "run.zarr")
    STORES["2^40 snapshots"][1](path)
    before = {file: file.read_bytes() for file in harm.files_of(path)}
    code, said = fuzz.perform("compact", path, path, tmp_path)
    assert (code, "declares 1,099,511,627,776 snapshots, its manifests list 0" in said) == (1, True)
    assert {file: file.read_bytes() for file in harm.files_of(path)} == before


SCRIPT = """
import re, sys
from pathlib import Path
from gradlog.cli.app import run
code = run(sys.argv[1:])
# VmHWM starts afresh at exec; ru_maxrss would still hold the size of the process that forked this one
status = Path("/proc/self/status")
high = re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text()) if status.exists() else None
print(int(high[1]) // 1024 if high else 0, file=sys.stderr)
sys.exit(code)
"""


def in_process(*args: object) -> tuple[int, list[str], int]:
    """Exit status, lines on standard error, and MiB at most, where the system tells."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, args)], capture_output=True, text=True, timeout=120, env=environment()
    )
    *lines, peak = done.stderr.splitlines()
    return done.returncode, lines, int(peak)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["analyze", "audit", "compact"])
@pytest.mark.parametrize("name", ["a chunk is a pipe", "a journal that unpacks to 1 GB", "zarr.json is sparse"])
def test_a_fresh_process_stays_small(runs: Path, tmp_path: Path, name: str, verb: str) -> None:
    kind, change = STORES[name]
    path = shutil.copytree(runs / kind, tmp_path / "run.zarr")
    change(path)
    code, lines, peak = in_process(verb, path)
    assert code in (0, 1, 3)
    assert len(lines) == (1 if code else 0)
    assert peak < 500


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["large", "twice", "bzip2"])
@pytest.mark.parametrize("verb", ["info", "audit"])
def test_archives_that_unpack_to_too_much(runs: Path, tmp_path: Path, odd: str, verb: str) -> None:
    target = tmp_path / "run.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for file in harm.files_of(runs / "plain"):
            method = zipfile.ZIP_BZIP2 if odd == "bzip2" else zipfile.ZIP_DEFLATED
            archive.writestr(str(file.relative_to(runs / "plain")), file.read_bytes(), method)
        if odd == "large":
            with archive.open(member := zipfile.ZipInfo(f"{SEGMENT}/.journal-000009"), "w") as hole:
                member.compress_type = zipfile.ZIP_DEFLATED
                for _ in range(400):
                    hole.write(bytes(2**20))
        if odd == "twice":
            archive.writestr(f"{SEGMENT}/step/c.9", b"")
            archive.writestr(f"{SEGMENT}/step/c.8", b"")
    if odd == "twice":
        target.write_bytes(target.read_bytes().replace(b"step/c.9", b"step/c.8"))
    code, lines, peak = in_process(verb, target)
    assert code in (1, 3)
    assert len(lines) == 1
    assert peak < 500


@pytest.mark.parametrize("size", ["banana", "-1", "1.2.3G", "9" * 400])
def test_a_size_setting_that_is_none_is_named(
    runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: str
) -> None:
    monkeypatch.setenv("GRADLOG_CACHE_SIZE", size)
    code, said = fuzz.perform("analyze", runs / "plain", runs / "plain", tmp_path)
    assert code == 1
    assert said.startswith("gradlog: GRADLOG_CACHE_SIZE: expected a size such as 2G or 500M, got '")


def test_poisoned_cache_entries_change_no_number(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gradlog.cli.app import run

    monkeypatch.setenv("GRADLOG_CACHE", str(tmp_path))

    def answer() -> list[str]:
        assert run(["analyze", "-q", "--json", str(runs / "plain")]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if "memory" not in line]

    expected = answer()
    for seed in range(6):
        fuzz.poison(tmp_path, random.Random(seed))
        assert answer() == expected
