"""The kernels for GPUs, in Triton's interpreter against the map in numpy, and compiled for GPUs that are not here."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

import torch

import gradlog
from gradlog.analysis import open_run
from gradlog.integrations.torch.sketching import sketchers, triton_fold
from gradlog.integrations.torch.sketching.device_fold import Target
from gradlog.integrations.torch.sketching.device_sketch import DeviceSketch
from gradlog.integrations.torch.sketching.flats import flat
from gradlog.integrations.torch.sketching.triton_fold import TritonFold, require_same_sums
from gradlog.sketching.fold_hash import FoldHash
from tests.helpers.device_parts import in_numpy, parts_and_flats
from tests.helpers.programs import load

CPU = torch.device("cpu")
FILE = Path(triton_fold.__file__).with_name("triton_kernels.py")


def kernels(monkeypatch: pytest.MonkeyPatch, interpreted: bool) -> ModuleType:
    monkeypatch.setenv("TRITON_INTERPRET", str(int(interpreted)))  # it is looked at when the module is loaded
    return load(FILE)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = kernels(monkeypatch, True)
    module.plus = module.tl.standard._sum_combine  # the one sum that the interpreter does not take entry by entry
    return module


@pytest.mark.parametrize(("m", "dtype"), [(512, torch.float32), (100, torch.float64)])
def test_kernels_are_the_map(
    monkeypatch: pytest.MonkeyPatch, interpreted: ModuleType, m: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(triton_fold, "COLUMNS", 256 if m > 256 else 64)  # two programs each, one of them cut short
    monkeypatch.setattr(triton_fold, "LEAST", 5)  # several segments a group
    parts, flats = parts_and_flats(m)
    S = FoldHash(7, 3, m, {parts[0].name: 5} if m == 100 else None)
    sketch = DeviceSketch(S, parts, 4, CPU, dtype)
    sketch._fold = TritonFold(interpreted, S, parts, 4, sketch._to)
    seen = []
    for absent in ([], [], [1, 4]):
        flats = [None if i in absent else x for i, x in enumerate(flats)]
        folded = sketch.zero()
        if absent:  # in two calls, as several optimizers do
            sketch.fold(folded, [*flats[:5], *[None] * 4])
            sketch.fold(folded, [*[None] * 5, *flats[5:]])
        else:
            sketch.fold(folded, flats)
        found, norm2 = sketch.sketch(folded)
        expected, squares = in_numpy(S, parts, flats)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * math.sqrt(squares.max() + 1))
        np.testing.assert_allclose(norm2, squares, rtol=1e-12)
        seen.append((found.numpy().tobytes(), norm2.numpy().tobytes()))
        flats = [None if x is None else x.clone() for x in flats]  # elsewhere in memory
    assert seen[0] == seen[1] != seen[2]  # the sums are always the same


def test_gradients_that_change_their_dtype_and_those_that_kernels_do_not_read(interpreted: ModuleType) -> None:
    S = FoldHash(7, 3, 64)
    parts, _ = parts_and_flats(64)
    sketch = DeviceSketch(S, parts, 4, CPU)
    sketch._fold = TritonFold(interpreted, S, parts, 4, sketch._to)
    for kind in (torch.float32, torch.bfloat16, torch.int16):
        numbers = [torch.arange(2 * p.size).remainder(5).to(kind).view(-1, 2) for p in parts]
        flats = [flat(x[:, 1]) for x in numbers]  # every second entry, which stays a view
        flats[3] = torch.ones((), dtype=kind).expand(parts[3].size)
        flats[4] = torch._neg_view(flats[4].contiguous())
        folded = sketch.zero()
        sketch.fold(folded, flats)
        found, norm2 = sketch.sketch(folded)
        expected, squares = in_numpy(S, parts, flats)
        np.testing.assert_array_equal(found, expected)  # small whole numbers
        np.testing.assert_array_equal(norm2, squares)


def test_a_run_by_kernels_is_the_run_by_numpy(
    monkeypatch: pytest.MonkeyPatch, interpreted: ModuleType, tmp_path: Path, recorded: Any
) -> None:
    monkeypatch.setattr(triton_fold, "COLUMNS", 2**15)
    monkeypatch.setattr(triton_fold, "kernels_for", lambda to: interpreted)
    rows = []
    for forced in (True, False):
        monkeypatch.setattr(sketchers, "_FORCE_DEVICE", forced)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(200, 170), torch.nn.Linear(170, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        log = gradlog.attach(optimizer, tmp_path / f"{forced}.zarr", model=model, k=64, on_error="raise")
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(8, 200)).square().mean().backward()
            optimizer.step()
        log.close()
        rows.append(recorded(log.path))
    told = [segment["fold"] for segment in open_run(tmp_path / "True.zarr").info["segments"]]
    assert told == [f"{interpreted.VERSION} on cpu"]
    np.testing.assert_allclose(rows[0].sketch, rows[1].sketch, rtol=0, atol=1e-5)
    np.testing.assert_allclose(rows[0].norm2, rows[1].norm2, rtol=1e-5)
    assert np.abs(rows[1].sketch).max() > 0.1


def test_wrong_sums_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_fold, "COLUMNS", 32)
    to, interpreted = Target(CPU, torch.float32), kernels(monkeypatch, True)
    require_same_sums(interpreted, to)
    interpreted.add_segments = {key: lambda *args, **kwargs: None for key in itertools.product((2,), (2,))}
    with pytest.raises(RuntimeError, match="computes wrong sums on cpu"):
        require_same_sums(interpreted, to)


@pytest.mark.parametrize(("kind", "total"), [("fp32", "fp32"), ("bf16", "fp32"), ("fp16", "fp64")])
@pytest.mark.parametrize("target", [("cuda", 80, 32), ("hip", "gfx942", 64)])
def test_kernels_compile_for_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: tuple[str, Any, int], kind: str, total: str
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module = kernels(monkeypatch, False)
    fixed = {"KIND": getattr(module.tl, f"{'bfloat' if kind == 'bf16' else 'float'}{kind[2:]}"),
             "SUM": getattr(module.tl, f"float{total[2:]}"), "COLUMNS": triton_fold.COLUMNS}  # fmt: skip
    pointers = dict.fromkeys(["which", "segments", "table", "addresses", "bounds"], "*i64")
    pointers |= {"t": "*i8", "sums": f"*{total}", "w": f"*{total}", "squares": "*fp64", "norms": "*fp64", "m": "i32"}
    for kernel in (module.fold_segments, module.add_segments):
        names = kernel.arg_names
        signature = {name: pointers.get(name, "constexpr") for name in names}
        source = ASTSource(kernel, signature, {name: fixed[name] for name in names if name in fixed})
        text = triton.compile(source, target=GPUTarget(*target), options={"enable_fp_fusion": True}).asm
        assembly = text["ptx" if target[0] == "cuda" else "amdgcn"]
        assert "atom" not in assembly  # sums in a fixed order
        assert "red.global" not in assembly
