"""The sketch on a device, run on the CPU: against the map in numpy, and how much its operations move."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import gradlog
from gradlog.analysis import open_run
from gradlog.integrations.sketch_tables import Part
from gradlog.integrations.torch.sketching import device_fold, sketchers, triton_fold
from gradlog.integrations.torch.sketching.device_fold import BlockFold, Target
from gradlog.integrations.torch.sketching.device_sketch import DeviceSketch
from gradlog.sketching.fold_hash import FoldHash
from tests.helpers.device_parts import in_numpy, parts_and_flats
from tests.helpers.programs import load

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_device.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load(BENCHMARK)


@pytest.mark.parametrize("absent", [[], [2, 5], range(9)])
@pytest.mark.parametrize("m", [512, 100])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_fold_in_blocks_is_the_map(
    monkeypatch: pytest.MonkeyPatch, in_place: bool, m: int, absent: list[int]
) -> None:
    monkeypatch.setattr(device_fold, "WORK", 10 * m)  # several blocks, one of which a tensor fills alone
    monkeypatch.setattr(device_fold, "AT_ONCE", 3)
    parts, flats = parts_and_flats(m)
    S = FoldHash(7, 3, m, {parts[0].name: 5} if m == 100 else None)
    for i in absent:
        flats[i] = None
    sketch = DeviceSketch(S, parts, 4, torch.device("cpu"))
    sketch._fold = fold = BlockFold(S, parts, sketch._to, in_place)
    assert {block.whole for block in fold._blocks} == {True, False}
    for cut in (9, 4):  # a later step, in two calls as of several optimizers, finds nothing of the first
        folded = sketch.zero()
        sketch.fold(folded, [*flats[:cut], *[None] * (9 - cut)])
        sketch.fold(folded, [*[None] * cut, *flats[cut:]])
        found, norm2 = sketch.sketch(folded)
        expected, squares = in_numpy(S, parts, flats)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * math.sqrt(squares.max() + 1))
        np.testing.assert_allclose(norm2, squares, rtol=1e-12)


def test_windows_are_used_where_a_device_adds_them_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert not device_fold.reads_windows.__wrapped__(cpu)  # it would copy them first
    monkeypatch.setattr(device_fold, "IN_PLACE", ("cpu", "meta"))
    assert device_fold.reads_windows.__wrapped__(cpu)
    assert not device_fold.reads_windows.__wrapped__(meta)  # gives no numbers
    wrong = lambda *args, **kwargs: torch.zeros(2, 2)  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "embedding_bag", wrong)
    assert not device_fold.reads_windows.__wrapped__(cpu)


def test_a_triton_that_does_not_work_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    gpu, cpu = Target(torch.device("cuda"), torch.float32), Target(torch.device("cpu"), torch.float32)
    triton_fold.kernels_for.cache_clear()
    monkeypatch.setattr(triton_fold, "find_spec", lambda name: None)
    assert triton_fold.kernels_for(gpu) == ""  # and nothing is said of what is not there

    def broken(name: str) -> ModuleType:
        raise OSError("no compiler\nfound")

    monkeypatch.setattr(triton_fold, "find_spec", lambda name: name)
    monkeypatch.setattr(triton_fold, "import_module", broken)
    triton_fold.kernels_for.cache_clear()
    why = triton_fold.kernels_for(gpu)
    assert why == "Triton cannot be used, so torch sketches on the GPU (OSError: no compiler found)"
    assert triton_fold.kernels_for(cpu) == ""
    triton_fold.kernels_for.cache_clear()

    monkeypatch.setattr(triton_fold, "kernels_for", lambda to: why)
    monkeypatch.setattr(sketchers, "_FORCE_DEVICE", True)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlog.attach(optimizer, tmp_path / "run.zarr", model=model, on_error="raise") as log:
        for _ in range(3):
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
    assert [str(one.message) for one in recwarn] == [f"{log.path}: {why}"]
    segments = open_run(log.path).info["segments"]
    assert [s["fold"] for s in segments] == [f"torch {torch.__version__} on cpu"]


def test_nan_stays_in_its_group_and_out_of_the_next_step() -> None:
    S = FoldHash(7, 3, 64)
    parts = [Part("a", 0, 100), Part("b", 1, 70)]
    sketch = DeviceSketch(S, parts, 2, torch.device("cpu"))
    sketch._fold = BlockFold(S, parts, sketch._to, in_place=True)
    for spoiled in (torch.nan, 1.0):
        folded = sketch.zero()
        sketch.fold(folded, [torch.full((100,), spoiled), torch.ones(70)])
        found, norm2 = sketch.sketch(folded)
        assert found.isnan().any(1).tolist() == norm2.isnan().tolist() == [math.isnan(spoiled), False]


def test_a_step_of_124_million_parameters_moves_few_bytes_in_few_kernels(bench: ModuleType) -> None:
    shapes = bench.gpt2()
    entries = sum(map(math.prod, shapes.values()))
    assert (len(shapes), entries) == (148, 124_439_808)
    sketch = bench.sketches(shapes, torch.device("meta"), in_place=True)["torch"]
    for dtype, most in ((torch.float32, 24), (torch.bfloat16, 22)):
        gradients = [torch.empty(s, dtype=dtype, device="meta") for s in shapes.values()]
        moved = bench.count(sketch, gradients)
        assert 16 * entries < moved.bytes <= most * entries
        assert moved.kernels <= 40
    moved = bench.count(bench.sketches(shapes, torch.device("meta"), in_place=False)["torch"], gradients)
    assert moved.bytes > 40 * entries  # an index for each entry is seen in the count
    assert moved.kernels > 300


def test_what_is_counted_of_an_operation(bench: ModuleType) -> None:
    x, y = torch.zeros(100), torch.zeros(100, dtype=torch.float64)
    with bench.Traffic() as traffic:
        x.view(10, 10).add_(1)  # read and written
    assert (traffic.bytes, traffic.kernels) == (800, 1)
    with bench.Traffic() as traffic:
        torch._foreach_copy_([x] * 65, [y] * 65)  # read once, written once; at most 64 pairs a kernel
    assert (traffic.bytes, traffic.kernels) == (65 * 1200, 2)
    with bench.Traffic() as traffic:
        torch.add(x, x[:1].expand(100), out=torch.empty(100))
    assert (traffic.bytes, traffic.kernels) == (400 + 400 + 400, 1)
