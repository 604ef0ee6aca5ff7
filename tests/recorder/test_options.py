"""The options of a recording as one object: checked where it is made, and the same as the keywords."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.recorder.options import OptionKeywords

ROW = {"w": np.ones(30)}


def fields() -> list[str]:
    return [field.name for field in dataclasses.fields(gradlog.RecordingOptions)]


def test_every_option_is_a_keyword_of_the_same_type_and_no_other_is() -> None:
    assert get_type_hints(OptionKeywords) == get_type_hints(gradlog.RecordingOptions)


def test_every_option_is_described_in_the_order_of_its_declaration() -> None:
    text = inspect.getdoc(gradlog.RecordingOptions)
    places = [re.search(rf"\n(\w+, )*{name}(, \w+)* : ", text).start() for name in fields()]
    assert places == sorted(places)


def test_help_shows_the_single_options_of_open_with_their_defaults() -> None:
    shown = inspect.signature(gradlog.open).parameters
    assert list(shown) == ["path", "like", "options", *fields()]
    assert (shown["k"].default, shown["groups"].default) == (256, "blocks")


def test_one_object_serves_many_runs_and_keywords_beside_it_count_more(tmp_path: Path) -> None:
    options = gradlog.RecordingOptions(k=8, every=2, on_error="raise")
    for name, keywords in (("a", {}), ("b", {"k": 16, "stage": "preclip"})):
        with gradlog.open(tmp_path / name, ROW, options=options, **keywords) as log:
            log.step(ROW)
    a, b = (open_run(tmp_path / name).header for name in "ab")
    assert (a.sketch.k, a.every, a.stage) == (8, 2, "consumed")
    assert (b.sketch.k, b.every, b.stage) == (16, 2, "preclip")


def test_what_an_integration_fills_in_gives_way_to_what_the_user_said() -> None:
    options = gradlog.RecordingOptions(first_step=0, optimizer={"class": "mine"})
    filled = options.filled(first_step=7, optimizer={"class": "Adam"}, mode="new", chunk="16", k=8)
    assert (filled.first_step, filled.optimizer, filled.mode, filled.chunk) == (0, {"class": "mine"}, "new", 16)
    assert filled.k == 256


@pytest.mark.parametrize(
    ("option", "value"),
    [("mode", "r"), ("stage", "raw"), ("on_error", "ignore"), ("codec", "gzip"), ("k", 0), ("chunk", "few")],
)
def test_a_wrong_option_is_refused_where_the_object_is_made(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{option} must be"):
        gradlog.RecordingOptions(**{option: value})


@pytest.mark.parametrize("option", ["notes", "optimizer"])
def test_facts_that_are_no_mapping_are_refused_at_once(tmp_path: Path, option: str) -> None:
    with pytest.raises(TypeError, match=f"{option} must be a mapping, got str"):
        gradlog.open(tmp_path / "r.zarr", **{option: "batch 128"})


def test_notes_are_those_of_the_moment_when_the_options_were_made(tmp_path: Path) -> None:
    notes = {"batch": 128}
    log = gradlog.open(tmp_path / "r.zarr", notes=notes, on_error="raise")
    notes["batch"] = 256
    log.step(ROW)
    log.close()
    assert open_run(tmp_path / "r.zarr").header.provenance["notes"] == {"batch": 128}


def test_a_keyword_that_is_no_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="colour"):
        gradlog.open(tmp_path / "r.zarr", colour="red")
    assert not (tmp_path / "r.zarr").exists()


def test_options_cannot_change_after_they_were_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        gradlog.RecordingOptions().k = 0
