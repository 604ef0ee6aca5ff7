"""Where a run may live: a folder, a zip of one, memory, and S3, the last against a real server on the loopback."""

from __future__ import annotations

import logging
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.asyn import sync as fsspec_sync
from zarr.core.sync import sync as zarr_sync

import gradlog
from gradlog.analysis import analyze, open_run
from gradlog.analysis.audit.files import open_files
from gradlog.analysis.audit.integrity import check, examine
from gradlog.cli.app import run as command
from gradlog.errors import (
    CorruptRunError,
    GradlogError,
    GradlogWarning,
    MissingDependencyError,
    NotARunError,
    RunExistsError,
)
from gradlog.storage.compact import compact
from gradlog.storage.sink import open_sink

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


def gradient(t: int) -> dict[str, np.ndarray]:
    return {
        "w": np.random.default_rng(t).normal(size=(5, 4)),
        "b": np.random.default_rng(-1 - t % 7 + 99).normal(size=6),
    }


def start(where: object, **options: object) -> gradlog.Logger:
    return gradlog.open(where, like=gradient(0), **{"k": 8, "chunk": 8, "on_error": "raise", **options})


def record(where: object, steps: range = range(20), **options: object) -> None:
    with start(where, **options) as log:
        for t in steps:
            log.step(gradient(t), t, loss=1 / (t + 1))


def rows(where: object) -> tuple[list[int], np.ndarray, np.ndarray]:
    run = open_run(where)
    return run.steps.tolist(), run.rows.read(0, len(run.steps)), run.scalar_columns["loss"]


def assert_equal(where: object, other: object) -> None:
    for a, b in zip(rows(where), rows(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    record(tmp_path / "local.zarr")
    return tmp_path / "local.zarr"


class TestFolder:
    def test_every_spelling(self, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(local.parent)
        for where in (str(local), "local.zarr", "local.zarr/", f"file://{local}"):
            assert_equal(where, local)
            assert check(where).problems == []

    def test_file_urls_are_written_to(self, tmp_path: Path, local: Path) -> None:
        record(f"file://{tmp_path}/url.zarr")
        assert_equal(tmp_path / "url.zarr", local)


def zipped(path: Path, archive: Path, compression: int, top: str = "", folders: bool = False) -> Path:
    with zipfile.ZipFile(archive, "w", compression) as z:
        for file in sorted(path.rglob("*")):
            if folders or not file.is_dir():
                z.write(file, top + file.relative_to(path).as_posix())
    return archive


class TestZip:
    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("top", ["", "run.zarr/"])
    @pytest.mark.parametrize("folders", [False, True])
    def test_read_and_checked(self, tmp_path: Path, local: Path, compression: int, top: str, folders: bool) -> None:
        archive = zipped(local, tmp_path / "r.zip", compression, top, folders)
        assert_equal(archive, local)
        assert check(archive).problems == []
        assert open_run(archive).info["storage"] == open_run(local).info["storage"]
        assert command(["audit", str(archive)]) == 0

    def test_as_other_tools_make_them(self, tmp_path: Path, local: Path) -> None:
        subprocess.run([sys.executable, "-m", "zipfile", "-c", tmp_path / "a.zip", local], check=True)
        shutil.make_archive(str(tmp_path / "b"), "zip", local)
        for name in ("a.zip", "b.zip"):
            assert_equal(tmp_path / name, local)
            assert check(tmp_path / name).problems == []

    @pytest.mark.parametrize("name", ["killed", "compacted", "ranks"])
    def test_of_every_kind_of_run(self, tmp_path: Path, name: str) -> None:
        archive = zipped(GOLDEN / f"{name}.zarr", tmp_path / "r.zip", zipfile.ZIP_DEFLATED)
        assert_equal(archive, GOLDEN / f"{name}.zarr")
        assert check(archive) == check(GOLDEN / f"{name}.zarr")

    def test_analyzed(self, tmp_path: Path, local: Path) -> None:
        archive = zipped(local, tmp_path / "r.zip", zipfile.ZIP_STORED)
        assert float(analyze(str(archive), ["last"]).kappa[0]) == float(analyze(str(local), ["last"]).kappa[0])

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_a_damaged_one_is_an_error_and_never_other_numbers(
        self, tmp_path: Path, local: Path, compression: int
    ) -> None:
        whole = zipped(local, tmp_path / "r.zip", compression).read_bytes()
        expected, rng = rows(local), random.Random(0)
        noticed = 0
        for _ in range(60):
            at = rng.randrange(len(whole))
            (tmp_path / "d.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
            try:
                found = rows(tmp_path / "d.zip")
            except GradlogError:
                noticed += 1
            else:
                assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
        assert noticed > 15

    def test_a_changed_member_fails_the_audit(self, tmp_path: Path, local: Path) -> None:
        chunk = local / "seg-000000-r0000/sketch/c.1.0.0"
        chunk.write_bytes((local / "seg-000000-r0000/sketch/c.0.0.0").read_bytes())
        archive = zipped(local, tmp_path / "r.zip", zipfile.ZIP_STORED)
        assert examine(open_files(archive)).problems == [
            "seg-000000-r0000/sketch/c.1.0.0: bytes contradict the manifest"
        ]


class TestMemory:
    @pytest.fixture
    def url(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
        monkeypatch.setenv("GRADLOG_SPOOL", str(tmp_path / "spool"))
        yield "memory://where/run.zarr"
        fsspec.filesystem("memory").rm("/where", recursive=True)

    def test_written_continued_read_checked(self, url: str, local: Path, tmp_path: Path) -> None:
        record(url)
        assert_equal(url, local)
        record(url, range(12, 30), mode="a", first_step=12)
        assert rows(url)[0] == list(range(30))
        assert open_run(url).relogged["identical"] == 8
        found = check(url)
        assert found.problems == []
        assert "8 steps were logged again" in found.notes[0]
        assert not list((tmp_path / "spool").rglob(".journal-*"))

    def test_the_journal_is_spooled_and_goes(self, url: str, tmp_path: Path) -> None:
        with start(url) as log:
            for t in range(5):
                log.step(gradient(t), loss=0.0)
            (journal,) = (tmp_path / "spool").rglob(".journal-*")
            assert journal.parent.name == "seg-000000-r0000"
            assert open_run(url).steps.tolist() == []
        assert not journal.exists()
        assert open_run(url).steps.tolist() == list(range(5))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield f"http://{host}:{port}"
        close_sessions(s3fs)
        server.stop()


def close_sessions(s3fs: Any) -> None:
    """Close what s3fs keeps open as long as the process lives."""
    for fs in list(s3fs.S3FileSystem._cache.values()):
        session = getattr(fs, "_s3", None)
        if session is not None and fs.asynchronous:
            zarr_sync(session.close())
        elif session is not None:
            fsspec_sync(fs.loop, session.close)
    s3fs.S3FileSystem.clear_instance_cache()


class TestS3:
    @pytest.fixture
    def url(self, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("GRADLOG_SPOOL", str(tmp_path / "spool"))
        return f"s3://bucket/{tmp_path.name}/run.zarr"

    def test_written_read_and_checked(self, url: str, local: Path) -> None:
        record(url)
        assert_equal(url, local)
        found = check(url)
        assert found.problems == []
        assert found.notes == []
        assert float(analyze(url, ["last"]).kappa[0]) == float(analyze(str(local), ["last"]).kappa[0])

    def test_read_while_another_process_writes(self, url: str) -> None:
        """A second look sees what came since: listings are not kept from the first."""
        script = (
            "import gradlog, numpy as np, sys\n"
            "log = gradlog.open(sys.argv[1], like={'w': np.zeros(30)}, k=8, chunk=4, mode='a', on_error='raise')\n"
            "for t in range(12): log.step({'w': np.full(30, t + 1.0)}, loss=0.0)\n"
            "log.close()\n"
        )
        seen = []
        for _ in range(2):
            subprocess.run([sys.executable, "-c", script, url], check=True, env=environment())
            seen.append(rows(url)[0])
        assert seen == [list(range(12)), list(range(24))]

    def test_killed_it_is_replayed_from_the_spool(self, url: str) -> None:
        script = (
            "import gradlog, numpy as np, os, signal, sys\n"
            "log = gradlog.open(sys.argv[1], like={'w': np.zeros(30)}, k=8, chunk=16, on_error='raise')\n"
            "for t in range(11): log.step({'w': np.full(30, t + 1.0)}, loss=float(t))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        subprocess.run([sys.executable, "-c", script, url], check=False, env=environment())
        assert open_run(url).steps.tolist() == []
        like = {"w": np.zeros(30)}
        with gradlog.open(url, like=like, k=8, chunk=16, mode="a", on_error="raise") as log:
            log.step({"w": np.full(30, 12.0)}, loss=11.0)
        steps, _, loss = rows(url)
        assert steps == list(range(12))
        assert loss.tolist() == list(map(float, range(12)))
        np.testing.assert_allclose(open_run(url).group_norm2[:, 0], 30 * np.arange(1.0, 13) ** 2, rtol=1e-6)
        assert check(url).problems == []

    @pytest.mark.slow
    def test_of_two_processes_one_records_and_the_other_is_told(self, url: str) -> None:
        script = (
            "import gradlog, numpy as np, sys\n"
            "url, mode, value = sys.argv[1:]\n"
            "try: log = gradlog.open(url, like={'w': np.zeros(9)}, k='exact', chunk=4, mode=mode, on_error='raise')\n"
            "finally: print('tried', flush=True)\n"
            "sys.stdin.readline()\n"
            "for t in range(6): log.step({'w': np.full(9, float(value))})\n"
            "log.close()\n"
        )
        for mode in ("w-", "a"):
            words = [sys.executable, "-c", script, f"{url}-{mode}", mode]
            rivals = [
                subprocess.Popen([*words, value], env=environment(), stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
                for value in ("1", "2")
            ]
            for rival in rivals:
                assert rival.stdout.readline() == "tried\n"
            said = [rival.communicate()[1] for rival in rivals]
            codes = [rival.returncode for rival in rivals]
            assert sorted(codes) == [0, 1], said
            assert "RunExistsError" in said[codes.index(1)]
            found = open_run(f"{url}-{mode}", "all").sketch.compute()[:, 0, 0].tolist()
            assert found == [1.0 + codes.index(0)] * 6
            assert check(f"{url}-{mode}").problems == []

    def test_only_one_of_two_creates(self, url: str) -> None:
        one, two = open_sink(url), open_sink(url)
        assert one.create("zarr.json", [b"one"])
        assert not two.create("zarr.json", [b"two"])
        assert two.get("zarr.json") == b"one"

    def test_a_live_run_that_is_replaced_tells_both_and_mixes_nothing(self, url: str) -> None:
        old = start(url, on_error="warn")
        for t in range(10):
            old.step(gradient(t), loss=0.0)
        while old.pending >= 8:  # a commit under way is not stopped by the deletion of its run
            time.sleep(0.01)
        with pytest.warns(GradlogWarning, match="may be|is still recording"), start(url, mode="w") as new:
            with pytest.warns(GradlogWarning, match=r"replaced|gone"):
                for t in range(10, 40):
                    old.step(gradient(t), loss=0.0)
                old.close()
            new.step(gradient(0), loss=1.0)
        assert rows(url)[0] == [0]
        assert check(url).problems == []

    def test_objects_that_are_no_run_are_not_replaced(self, url: str) -> None:
        fs = fsspec.filesystem("s3")
        prefix = url.rpartition("/")[0]
        fs.pipe_file(f"{prefix}/model.pt", b"weights")
        for mode in ("w-", "a", "w"):
            with pytest.raises(RunExistsError, match="no gradlog run"):
                record(prefix, mode=mode)
        record(url)
        fs.pipe_file(f"{url}/model.pt", b"weights")
        record(url, mode="w")
        assert fs.cat_file(f"{url}/model.pt") == fs.cat_file(f"{prefix}/model.pt") == b"weights"

    def test_damage_is_noticed(self, url: str) -> None:
        record(url)
        fs = fsspec.filesystem("s3")
        key = f"{url}/seg-000000-r0000/group_norm2/c.1.0"
        data = bytearray(fs.cat_file(key))
        data[3] ^= 1
        fs.pipe_file(key, bytes(data))
        assert any("group_norm2/c.1.0" in problem for problem in examine(open_files(url)).problems)
        with pytest.raises(CorruptRunError, match="group_norm2"):
            _ = open_run(url).group_norm2
        fs.rm(key)
        with pytest.raises(CorruptRunError, match="1 of 3 chunk files are missing"):
            _ = open_run(url).group_norm2

    def test_what_is_not_there(self, endpoint: str) -> None:
        for url in ("s3://bucket/nothing.zarr", "s3://no-such-bucket/run.zarr"):
            with pytest.raises(NotARunError):
                open_run(url)
            assert command(["audit", url]) == 3


def test_a_protocol_without_its_package() -> None:
    with pytest.raises(MissingDependencyError, match="gcsfs"):
        open_run("gs://bucket/run.zarr")


def test_a_compacted_run_moves_as_well(tmp_path: Path, local: Path) -> None:
    shutil.copytree(local, tmp_path / "c.zarr")
    compact(tmp_path / "c.zarr")
    archive = zipped(tmp_path / "c.zarr", tmp_path / "c.zip", zipfile.ZIP_STORED)
    assert_equal(archive, local)
    assert check(archive).problems == []


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
