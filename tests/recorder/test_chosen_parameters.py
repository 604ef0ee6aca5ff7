"""Only some of the parameters are recorded: by expressions on their names, or by a groups function."""

from __future__ import annotations

import numpy as np
import pytest

import gradlog
import gradlog.analysis
from gradlog.analysis.common.recorded import recorded
from gradlog.sketching.fold_hash import FoldHash

LIKE = {"emb.weight": np.zeros(40), "h.0.weight": np.zeros(30), "h.0.bias": np.zeros(5), "lora_a": np.zeros(7)}


@pytest.mark.parametrize(("choice", "expected"), [
    ({"include": "lora"}, ["lora_a"]),
    ({"include": ["^emb", "lora"]}, ["emb.weight", "lora_a"]),
    ({"exclude": "bias$"}, ["emb.weight", "h.0.weight", "lora_a"]),
    ({"include": r"^h\.", "exclude": ["bias"]}, ["h.0.weight"]),
    ({"groups": lambda name: None if "emb" in name else "rest"}, ["h.0.weight", "h.0.bias", "lora_a"]),
    ({"groups": {"all": ""}, "exclude": ["emb", "lora"]}, ["h.0.weight", "h.0.bias"]),
])  # fmt: skip
@pytest.mark.parametrize("told", [True, False], ids=["like", "first gradient"])
def test_rows_are_those_of_the_chosen_parameters(tmp_path, choice, expected, told):
    rng, S, rows = np.random.default_rng(0), FoldHash(8), []
    options = gradlog.RecordingOptions(k=8, on_error="raise", **choice)
    with gradlog.open(tmp_path / "r.zarr", LIKE if told else None, options=options) as log:
        log.parameters(LIKE)
        for _ in range(3):
            gradient = {name: rng.standard_normal(x.size) for name, x in LIKE.items()}
            log.step(gradient)
            rows.append(sum(S.sketch(gradient[name], name) for name in expected))
    run = gradlog.analysis.open_run(tmp_path / "r.zarr")
    assert [t.name for t in run.header.tensors] == expected
    np.testing.assert_allclose(run.sketch.compute().sum(axis=1), rows, rtol=1e-5, atol=1e-5)
    assert run.flags.tolist() == [0, 0, 0]


def test_the_description_of_a_run_says_by_what_its_parameters_were_chosen(tmp_path):
    said = {}
    for name, choice in {"all": {}, "some": {"include": "h", "exclude": ["emb", "bias$"]}}.items():
        with gradlog.open(tmp_path / name, LIKE, k=8, **choice) as log:
            log.step(LIKE)
        said[name] = recorded(gradlog.analysis.open_run(tmp_path / name).info)["model"]
    assert said == {
        "all": "82 parameters in 4 tensors",
        "some": "30 parameters in 1 tensor, chosen by include=h; exclude=emb, bias$",
    }


@pytest.mark.parametrize(
    "chosen", [["h"], {"exclude": []}, {"include": "h"}, {"include": 3, "exclude": {"a": 1}}, None]
)
def test_a_choice_that_is_stored_in_another_form_is_passed_over(tmp_path, chosen):
    with gradlog.open(tmp_path / "r.zarr", LIKE, k=8) as log:
        log.step(LIKE)
    info = gradlog.analysis.open_run(tmp_path / "r.zarr").info
    info["provenance"]["chosen"] = chosen
    assert recorded(info)["model"] == "82 parameters in 4 tensors"


def test_a_parameter_that_is_chosen_and_not_in_the_run_is_still_an_error(tmp_path):
    log = gradlog.open(tmp_path / "r.zarr", LIKE, k=8, include="h", on_error="raise")
    with pytest.raises(gradlog.GradlogError, match=r"'h\.1\.weight' is no parameter of this run"):
        log.step({"h.1.weight": np.ones(30)})
    log.close()


def test_a_choice_of_nothing_says_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"choose none of the parameters, which are emb.weight, h.0.weight, h.0.bias,"):
        gradlog.open(tmp_path / "r.zarr", LIKE, include="nothing")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["(", ["a", "("], [3]])
def test_what_is_no_expression_is_refused_at_once(tmp_path, wrong):
    with pytest.raises(ValueError, match="include: expected regular expressions, got"):
        gradlog.open(tmp_path / "r.zarr", LIKE, include=wrong)


def test_parameters_join_only_if_they_are_chosen(tmp_path):
    with gradlog.open(tmp_path / "r.zarr", LIKE, k=8, exclude="bias", on_error="raise") as log:
        log.step(LIKE)
        log.join({"h.1.bias": np.zeros(3)})
        log.step(LIKE | {"h.1.bias": np.ones(3)})
    run = gradlog.analysis.open_run(tmp_path / "r.zarr")
    assert len(run.segments) == 1
    assert run.n_steps == 2
