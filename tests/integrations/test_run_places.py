"""Where ``gradlog run`` records, what it refuses before the script starts, and what it tells in the end."""

from __future__ import annotations

import pytest

from tests.integrations.warm import gradlog_run, server

__all__ = ["gradlog_run", "server"]

pytestmark = pytest.mark.slow


def test_an_existing_run_is_not_touched(tmp_path, gradlog_run):
    assert gradlog_run("-o", "out.zarr", "train.py").returncode == 0
    refused = gradlog_run("-o", "out.zarr", "train.py")
    assert refused.returncode != 0
    assert "--append" in refused.stderr
    assert "done" not in refused.stdout
    assert gradlog_run("-o", "out.zarr", "--append", "-m", "train").returncode == 0


def test_a_place_that_cannot_take_the_run_is_refused_before_the_script_starts(tmp_path, gradlog_run):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    (tmp_path / "notes").write_text("mine")
    refused = [
        (["-o", "photos"], "photos exists and is no gradlog run"),
        (["-o", "photos", "--force"], "photos exists and is no gradlog run"),
        (["-o", "notes", "--append"], "notes exists and is no gradlog run"),
        (["-o", "notes/run.zarr"], "takes no files"),
        (["-o", "nowhere://run.zarr"], "nowhere"),
    ]
    for options, reason in refused:
        done = gradlog_run(*options, "train.py")
        assert (done.returncode, done.stdout) == (1, ""), options
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1, "one line, and no error of gradlog itself"
        assert "itself" not in done.stderr
    assert (tmp_path / "notes").read_text() == "mine"
    assert sorted(p.name for p in (tmp_path / "photos").iterdir()) == ["cat.jpg"]


def test_a_url_stays_one(tmp_path, gradlog_run):
    done = gradlog_run("-o", "memory://bucket/out.zarr", "train.py", "two")
    assert done.returncode == 0, done.stderr
    assert "recorded memory://bucket/out.zarr; next: gradlog analyze memory://bucket/out.zarr" in done.stderr
    assert "recorded memory://bucket/out.optimizer2.zarr" in done.stderr
    assert not (tmp_path / "memory:").exists()


def test_a_recording_that_ended_is_told_once_and_not_called_a_script_without_steps(tmp_path, gradlog_run):
    assert gradlog_run("-o", "out.zarr", "--k", "16", "train.py").returncode == 0
    done = gradlog_run("-o", "out.zarr", "--append", "--k", "8", "train.py")
    assert done.stdout.startswith("done")
    assert done.stderr.count("training goes on") == 1
    assert done.stderr.endswith("gradlog: nothing was recorded: for the reason above\n")


def test_a_script_without_an_optimizer(tmp_path, gradlog_run):
    (tmp_path / "plain.py").write_text("print('hello')")
    done = gradlog_run("plain.py")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "nothing was recorded" in done.stderr
    assert gradlog_run("absent.py").returncode != 0
