"""What is known of the process that recorded, whatever state its machine is in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradlog
from gradlog.recorder import provenance


def git(folder: Path, *words: str | bytes) -> None:
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b.c",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "c",
    }
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, env=os.environ | identity)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one commit; the script that records lies in it."""
    (tmp_path / "train.py").write_text("one")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    return tmp_path


def test_the_commit_and_whether_there_are_changes(checkout: Path) -> None:
    clean = provenance.collect(gradlog.RecordingOptions(hostname=False))["git"]
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (checkout / "train.py").write_text("two")
    assert provenance.collect(gradlog.RecordingOptions(hostname=False))["git"] == clean | {"dirty": True}


def test_a_file_name_that_is_no_text_ends_no_recording(checkout: Path) -> None:
    """Git prints names as they are where it is told to, in whatever encoding they have."""
    name = os.fsencode(checkout) + b"/caf\xe9.py"
    with open(name, "w") as file:
        file.write("one")
    git(checkout, "config", "core.quotepath", "false")
    git(checkout, "add", "-A")
    assert provenance.collect(gradlog.RecordingOptions(hostname=False))["git"]["dirty"] is True


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "gone" / "train.py")])
    assert provenance.collect(gradlog.RecordingOptions(hostname=False))["git"] == {}
