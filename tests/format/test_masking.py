"""Secrets on a command line: masked in the store, in what is shown of old stores, and nothing else is."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradlog
from gradlog.analysis import open_run
from gradlog.cli.app import run as command
from gradlog.format.masking import command_line, facts
from tests.helpers.small_run import gradient, start

SECRET = "Q7wertyUiop9"

HIDDEN = [
    ["--token", SECRET], ["--hub_token", SECRET], ["-token", SECRET], [f"--api-key={SECRET} and {SECRET}"],
    [f"HF_TOKEN={SECRET}"], [f"wandb.api_key={SECRET}"], [f"+hub.token={SECRET}"], ["--wandbApiKey", SECRET],
    [f"hf_{SECRET}"], [f"sk-proj-{SECRET}"], [f"x=ghp_{SECRET}"], [f"https://me:{SECRET}@host/data"],
    [f"postgres://u:p@{SECRET}@host:5432/db"], [f"https://{SECRET}{SECRET}@host"], ["--db-password", SECRET],
    [f"https://host/f?part=1&X-Amz-Signature={SECRET}"], ["-H", f"Authorization: Bearer {SECRET}"],
    [f'{{"lr": 1, "api_key": "{SECRET}"}}'], ["--env", f"A=1,DB_PASSWORD={SECRET}"], ["--keys", SECRET, SECRET],
    [f"--set=--token={SECRET}"], [f"eyJhbGciOiJI.{SECRET}.{SECRET}"],
]  # fmt: skip

SHOWN = [
    ["--lr", "0.1", "--max_tokens", "4096", "--tokenizer", "gpt2", "--pad_token_id", "0", "--key-dim", "64"],
    ["s3://bucket/run.zarr", "git@github.com:a/b.git", "https://host:8080/path", "hf_transfer", "sk-learn-runs"],
    ["--data", "C:/data", "task-Abc12345x", "model.layers=[1,2]", "seed=0", "--token_dropout=0.1"],
]


@pytest.mark.parametrize("argv", HIDDEN, ids=lambda argv: argv[-1][:12])
def test_a_secret_is_hidden(argv):
    assert SECRET not in " ".join(command_line(["train.py", *argv]))
    assert command_line(["train.py", *argv, "--lr", "0.1"])[-2:] == ["--lr", "0.1"]


@pytest.mark.parametrize("argv", SHOWN)
def test_what_is_no_secret_is_shown(argv):
    assert command_line(argv) == argv


@given(st.lists(st.text(max_size=30), max_size=8))
def test_masking_is_done_once(argv):
    once = command_line(argv)
    assert len(once) == len(argv)
    assert command_line(once) == once


def test_neither_store_nor_screen_has_the_secret(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--hub_token", SECRET, "--lr", "0.1"])
    with start(tmp_path / "r.zarr", notes={"batch": 8, "wandb_key": SECRET, "data": f"s3://a:{SECRET}@b"}) as log:
        log.step(gradient(0))
    with start(tmp_path / "r.zarr", mode="a") as log:
        log.step(gradient(1))
    for file in tmp_path.rglob("zarr.json"):
        assert SECRET not in file.read_text()
    assert open_run(tmp_path / "r.zarr").info["provenance"]["argv"] == ["train.py", "--hub_token", "***", "--lr", "0.1"]
    assert open_run(tmp_path / "r.zarr").info["provenance"]["notes"]["batch"] == 8


@pytest.mark.parametrize("how", ["option", "environment"])
def test_the_command_line_can_be_left_out(tmp_path, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("GRADLOG_ARGV", "0")
    options = {"argv": False} if how == "option" else {}
    with start(tmp_path / "r.zarr", **options) as log:
        log.step(gradient(0))
    assert open_run(tmp_path / "r.zarr").info["provenance"]["argv"] == []


def test_an_old_store_is_masked_where_it_is_shown(tmp_path, capsys):
    path = tmp_path / "r.zarr"
    with start(path) as log:
        for t in range(3):
            log.step(gradient(t))
    meta = json.loads((path / "zarr.json").read_text())
    meta["attributes"]["gradlog"]["provenance"]["argv"] = ["train.py", "--token", SECRET]
    (path / "zarr.json").write_text(json.dumps(meta))
    shutil.rmtree(path / "seg-000000-r0000")  # which knows the digest of what stood there
    assert SECRET in (path / "zarr.json").read_text()
    for words in (["info"], ["info", "--json"]):
        assert command([*words, str(path)]) == 0
        out = capsys.readouterr().out
        assert "--token" in out
        assert SECRET not in out


def test_notes_are_taken_in_the_types_that_people_have(tmp_path):
    notes = {
        "lr": np.float32(0.5),
        "shape": (np.int64(2), 3),
        "data": tmp_path,
        "mean": np.ones(2),
        "nan": float("nan"),
    }
    with gradlog.open(tmp_path / "r.zarr", like=np.zeros(3), k=8, on_error="raise", notes=notes) as log:
        log.step(np.ones(3))
    kept = open_run(tmp_path / "r.zarr").info["provenance"]["notes"]
    assert kept == {"lr": 0.5, "shape": [2, 3], "data": str(tmp_path), "mean": [1.0, 1.0], "nan": "nan"}


def test_deep_facts_end_somewhere():
    deep: object = "x"
    for _ in range(500):
        deep = {"a": deep}
    assert "..." in json.dumps(facts(deep))
