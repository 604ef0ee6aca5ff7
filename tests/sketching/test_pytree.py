"""Trees of gradients, and leaves of every framework, as named numpy arrays."""

from __future__ import annotations

import collections
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradlog.errors import GradientError
from gradlog.sketching.pytree import as_numpy, describe, flatten

x = np.arange(6.0).reshape(2, 3)
Moments = collections.namedtuple("Moments", ["mu", "nu"])


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        (x, ["w"]),
        (np.float32(1), ["w"]),
        (2.5, ["w"]),
        (None, ["w"]),
        ({"b": x, "a": {"w": x, 3: [x, x]}}, ["b", "a.w", "a.3.0", "a.3.1"]),
        ([x, (x, None)], ["0", "1.0", "1.1"]),
        ([("fc.weight", x), ("fc.bias", x)], ["fc.weight", "fc.bias"]),
        (iter([("fc.weight", x)]), ["fc.weight"]),
        ({"fc": [x], "b": x}.items(), ["fc.0", "b"]),
        ({"adam": Moments(mu=x, nu=[x])}, ["adam.mu", "adam.nu.0"]),
        ({}, []),
        ([], []),
    ],
)
def test_names(tree: Any, names: list[str]) -> None:
    assert [name for name, _ in flatten(tree)] == names


def test_leaves_are_passed_through_untouched() -> None:
    assert flatten({"a": x, "b": None}) == [("a", x), ("b", None)]
    model = torch.nn.Linear(3, 2)
    assert [name for name, _ in flatten(model.named_parameters())] == ["weight", "bias"]
    assert flatten(model.named_parameters())[0][1] is model.weight


@given(
    st.recursive(st.none() | st.floats(), lambda t: st.lists(t) | st.dictionaries(st.integers(0, 9), t), max_leaves=9)
)
def test_leaves_come_in_the_order_of_the_tree(tree: Any) -> None:
    def leaves(t: Any) -> list[Any]:
        if isinstance(t, (list, dict)):
            return [leaf for child in (t.values() if isinstance(t, dict) else t) for leaf in leaves(child)]
        return [t]

    assert [id(leaf) for _, leaf in flatten(tree)] == [id(leaf) for leaf in leaves(tree)]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [x, "text"]}, r"a\.1: expected an array, or a dict, list or tuple of them, got str"),
        ({"a": {"b": object()}}, r"a\.b: .* got object"),
        ("text", "gradients: .* got str"),
        (iter([x, x]), r"gradients: expected an iterator of \(name, array\) pairs"),
    ],
)
def test_what_is_not_a_gradient_is_named(tree: Any, message: str) -> None:
    with pytest.raises(GradientError, match=message):
        flatten(tree)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int64"])
def test_cpu_tensors_and_arrays_are_not_copied(dtype: str) -> None:
    a = np.ones((2, 3), dtype)
    assert as_numpy(a) is a
    tensor = torch.ones(2, 3, dtype=getattr(torch, dtype))
    view = as_numpy(tensor)
    assert view is not None
    assert view.__array_interface__["data"][0] == tensor.data_ptr()


def test_a_parameter_is_detached_and_keeps_its_layout() -> None:
    parameter = torch.nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
    view = as_numpy(parameter)
    assert view is not None
    assert view.strides == tuple(4 * s for s in parameter.stride())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_short_floats_become_float32(dtype: str) -> None:
    tensor = torch.tensor([1.0, -0.5, 3.0]).to(getattr(torch, dtype))
    a = as_numpy(tensor)
    assert a is not None
    assert a.dtype == np.float32
    assert a.tolist() == [1, -0.5, 3]


def test_sparse_tensors_are_summed_up() -> None:
    rows = torch.tensor([[0, 2, 0]])
    coo = torch.sparse_coo_tensor(rows, torch.tensor([[1.0, 2], [3, 4], [10, 20]]), (3, 2), check_invariants=True)
    assert not coo.is_coalesced()
    for tensor in (coo, coo.coalesce()):
        found = as_numpy(tensor)
        assert found is not None
        assert found.tolist() == [[11, 22], [0, 0], [3, 4]]


def test_conjugate_and_negative_views_are_resolved() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j])
    assert np.array_equal(as_numpy(z.conj()), [1 - 2j, 3 + 1j])  # type: ignore[arg-type]
    assert np.array_equal(as_numpy(z.conj().imag), [-2, 1])  # type: ignore[arg-type]


def test_anything_with_an_array_view() -> None:
    class Device:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return x

    assert flatten([Device()])[0][0] == "0"
    assert np.array_equal(as_numpy(Device()), x)  # type: ignore[arg-type]
    assert as_numpy(None) is None


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (np.array(["a"]), r"fc\.b: expected numbers, got an array of dtype <U1"),
        (np.array([object()]), r"fc\.b: expected numbers, got an array of dtype object"),
        (np.array([True]), r"fc\.b: expected numbers, got an array of dtype bool"),
        (torch.tensor([True]), r"fc\.b: expected numbers, got a tensor of dtype torch\.bool"),
        (torch.ones(2, device="meta"), r"fc\.b: no numpy view of a torch\.float32 tensor on meta"),
    ],
)
def test_leaves_that_are_not_numbers(leaf: Any, message: str) -> None:
    with pytest.raises(GradientError, match=message):
        as_numpy(leaf, "fc.b")


def test_layout_of_a_run() -> None:
    pairs = [("a", torch.ones(2, 3, dtype=torch.bfloat16)), ("b", np.ones(4, np.complex64)), ("c", 1.5)]
    assert describe(pairs) == [("a", (2, 3), "bfloat16"), ("b", (4,), "complex64"), ("c", (), "float64")]
    with pytest.raises(GradientError, match="a: no gradient in the first step; pass like=params"):
        describe([("a", None)])
    with pytest.raises(GradientError, match="expected at least one array"):
        describe([])


def test_torch_is_not_imported_for_numpy_arrays() -> None:
    code = "import sys, numpy as np; from gradlog.sketching.pytree import as_numpy; as_numpy(np.ones(2)); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
