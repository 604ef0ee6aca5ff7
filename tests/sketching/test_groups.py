"""Division of parameter tensors into groups."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlog.sketching.groups import FEW, MOST, assign, canonical


def gpt2(blocks: int) -> dict[str, int]:
    sizes = {"transformer.wte.weight": 38_597_376, "transformer.wpe.weight": 786_432}
    for n in range(blocks):
        h = f"transformer.h.{n}."
        sizes |= {h + "ln_1.weight": 768, h + "attn.c_attn.weight": 1_769_472, h + "mlp.c_fc.weight": 2_359_296}
    return sizes | {"transformer.ln_f.weight": 768}


def resnet18() -> dict[str, int]:
    sizes = {"conv1.weight": 9408, "bn1.weight": 64}
    for layer in range(1, 5):
        for block in range(2):
            sizes |= {f"layer{layer}.{block}.{part}.weight": 64 * layer for part in ("conv1", "bn1", "conv2", "bn2")}
    return sizes | {"fc.weight": 51_200, "fc.bias": 100}


def blocks(sizes: dict[str, int]) -> tuple[str, ...]:
    return assign(list(sizes), list(sizes.values()))[0]


def test_gpt2_is_divided_into_its_blocks() -> None:
    names = ["wte", "wpe", *(f"h.{n}" for n in range(12)), "ln_f"]
    assert blocks(gpt2(12)) == tuple(f"transformer.{n}" for n in names)


def test_a_deep_gpt2_is_bundled_into_runs_of_neighbours() -> None:
    sizes = gpt2(48)
    groups, index = assign(list(sizes), list(sizes.values()))
    assert len(groups) == MOST
    assert groups[0] == "transformer.wte"
    assert groups[1] == "transformer.wpe-transformer.h.2"
    assert list(index) == sorted(index)
    weight = [sum(s for s, i in zip(sizes.values(), index, strict=True) if i == g) for g in range(MOST)]
    assert max(weight[1:]) <= 2.1 * min(weight[1:])


def test_resnet18_is_divided_into_its_residual_blocks() -> None:
    layers = [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]
    assert blocks(resnet18()) == ("conv1", "bn1", *layers, "fc")


def test_wrapper_levels_are_descended() -> None:
    inner = resnet18()
    assert blocks({f"net.body.{n}": s for n, s in inner.items()}) == tuple(f"net.body.{g}" for g in blocks(inner))


def test_parameters_of_the_top_level_are_groups_of_their_own() -> None:
    assert assign(["cls_token", "head.weight", "head.bias"], [1, 2, 2]) == (("cls_token", "head"), (0, 1, 1))
    assert assign(["w"], [1]) == (("w",), (0,))


def test_a_coarse_level_of_eight_is_kept() -> None:
    sizes = {f"stage{i}.{j}.weight": 1 for i in range(FEW) for j in range(3)}
    assert blocks(sizes) == tuple(f"stage{i}" for i in range(FEW))
    fewer = {n: s for n, s in sizes.items() if not n.startswith("stage7")}
    assert len(blocks(fewer)) == MOST
    assert blocks({f"{i}.weight": 1 for i in range(100)})[0].startswith("0-")


paths = st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4).map(".".join), min_size=1, max_size=60)


@given(paths, st.sampled_from(["blocks", "all", "tensors"]), st.data())
def test_every_tensor_has_a_group_and_every_group_a_tensor(names: list[str], rule: str, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 10**6), min_size=len(names), max_size=len(names)))
    groups, index = assign(names, sizes, rule)
    assert len(index) == len(names)
    assert set(index) == set(range(len(groups)))
    assert len(set(groups)) == len(groups)
    assert rule != "blocks" or len(groups) <= MOST


NAMES: Sequence[str] = ("fc1.weight", "fc1.bias", "norm.weight", "head.weight")


def test_explicit_rules() -> None:
    sizes = [1] * 4
    assert assign(NAMES, sizes, "all") == (("all",), (0, 0, 0, 0))
    assert assign(NAMES, sizes, "tensors") == (tuple(NAMES), (0, 1, 2, 3))
    patterns = {"biases": "bias$", "norms": r"norm", "rest": ".*"}
    assert assign(NAMES, sizes, patterns) == (("biases", "norms", "rest"), (2, 0, 1, 2))
    kinds = assign(NAMES, sizes, lambda name: name.rpartition(".")[2])
    assert kinds == (("weight", "bias"), (0, 1, 0, 0))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"fc": "fc"}, r"2 tensors match no expression \(norm\.weight, head\.weight\).*'rest': '\.\*'"),
        ({"all": ".*", "typo": "haed"}, r"no tensor falls into 'typo' \('haed'\)"),
        ({"bad": "("}, "not a map of names to regular expressions"),
        ({"bad": 3}, "not a map of names to regular expressions"),
        ("layers", "expected 'blocks', 'all', 'tensors'"),
        (None, "expected 'blocks', 'all', 'tensors'"),
        (lambda name: len(name), "must return a str for each tensor name, got 10"),
    ],
)
def test_bad_rules(groups: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(NAMES, [1] * 4, groups)  # type: ignore[arg-type]


def test_no_tensors() -> None:
    with pytest.raises(ValueError, match="there are no tensors"):
        assign([], [])


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("layer1.0.weight", "layer1.0.weight"),
        ("module.fc.weight", "fc.weight"),
        ("_orig_mod.module.fc.weight", "fc.weight"),
        ("module.layer1._orig_mod.0._checkpoint_wrapped_module.weight", "layer1.0.weight"),
        ("_fsdp_wrapped_module.fc.weight", "fc.weight"),
        ("net.module.weight", "net.module.weight"),
        ("module", "module"),
        ("_orig_mod", "_orig_mod"),
    ],
)
def test_canonical(name: str, plain: str) -> None:
    assert canonical(name) == plain
    assert canonical(plain) == plain
