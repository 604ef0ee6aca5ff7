"""The sketch of a step on a device, against one read of its gradients.

    python benchmarks/bench_device.py --device cuda|mps|xpu|cpu|meta [--models resnet gpt2] [--share 1] [--steps 20]

Prints a Markdown table: for gradients like those of ResNet-18 and of GPT-2 (124 million), in float32 and bfloat16, the
time of a sketch with norms, that of ``torch._foreach_norm`` of the same tensors, which reads each entry once, and their
ratio; the processor time to start a sketch; what the operations move and how many kernels they are. Bytes and kernels
are counted, not measured: every operation reads its inputs and writes its outputs, and a list of tensors is cut into
kernels as on CUDA. The device ``meta`` computes nothing and only counts. ``--share`` divides the first dimension of
every tensor, for small machines.

The fold in plain torch is always shown; on CUDA the one in Triton too, where it can be used.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradlog.integrations.sketch_tables import Part
from gradlog.integrations.torch.sketching.device_fold import BlockFold
from gradlog.integrations.torch.sketching.device_sketch import DeviceSketch
from gradlog.integrations.torch.sketching.triton_fold import TritonFold
from gradlog.sketching.fold_hash import FoldHash
from gradlog.sketching.groups import assign

Shapes = dict[str, tuple[int, ...]]

WRITE_ONLY = ("copy_", "zero_", "fill_")
LIST, CHUNK, CHUNKS = {1: 110, 2: 64, 3: 48}, 65536, 320
"""How torch cuts the lists of ``_foreach`` operations: tensors a kernel, by the number of lists; entries; chunks."""


def resnet18() -> Shapes:
    """62 tensors of ResNet-18 for 100 classes of small images."""
    shapes: Shapes = {"conv1.weight": (64, 3, 3, 3), "bn1.weight": (64,), "bn1.bias": (64,)}
    before = 64
    for layer, wide in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            at = f"layer{layer}.{block}"
            convolutions = [("1", (wide, before, 3, 3)), ("2", (wide, wide, 3, 3))]
            convolutions += [("3", (wide, before, 1, 1))] if wide != before else []
            for i, shape in convolutions:
                shapes |= {f"{at}.conv{i}.weight": shape, f"{at}.bn{i}.weight": (wide,), f"{at}.bn{i}.bias": (wide,)}
            before = wide
    return shapes | {"fc.weight": (100, 512), "fc.bias": (100,)}


def gpt2() -> Shapes:
    """148 tensors of GPT-2, 124 million parameters."""
    shapes: Shapes = {"wte.weight": (50257, 768), "wpe.weight": (1024, 768)}
    matrices = {
        "attn.c_attn": (768, 2304),
        "attn.c_proj": (768, 768),
        "mlp.c_fc": (768, 3072),
        "mlp.c_proj": (3072, 768),
    }
    for i in range(12):
        for name, shape in matrices.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[1:]}
        shapes |= {f"h.{i}.ln_{n}.{kind}": (768,) for n in (1, 2) for kind in ("weight", "bias")}
    return shapes | {"ln_f.weight": (768,), "ln_f.bias": (768,)}


MODELS: dict[str, Callable[[], Shapes]] = {"resnet": resnet18, "gpt2": gpt2}


class Traffic(TorchDispatchMode):
    """Adds up what operations read and write, and the kernels they are."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        schema = func._schema
        view = any(one.alias_info is not None and not one.alias_info.is_write for one in schema.returns)
        if view or schema.name.startswith("aten::empty"):
            return result
        changed: list[torch.Tensor] = []
        for place, argument in enumerate(schema.arguments):
            given = tensors(args[place] if place < len(args) else kwargs.get(argument.name))
            if argument.alias_info is not None and argument.alias_info.is_write:
                changed += given
                if argument.is_out or schema.name.endswith(WRITE_ONLY):
                    given = []
            self.bytes += sum(map(size, given))
        new = [one for one in tensors(result) if not any(one is other for other in changed)]
        self.bytes += sum(map(size, changed + new))
        self.kernels += kernels(schema.name, args)
        return result


def tensors(value: Any) -> list[torch.Tensor]:
    """Tensors in an argument or result."""
    return [one for one in tree_leaves(value) if isinstance(one, torch.Tensor)]


def size(x: torch.Tensor) -> int:
    """Bytes of a tensor, each counted once where it is seen several times."""
    return min(x.numel() * x.itemsize, x.untyped_storage().nbytes())


def kernels(name: str, args: Any) -> int:
    """Kernels of an operation."""
    if not name.startswith("aten::_foreach"):
        return 1
    lists = [one for one in args if isinstance(one, (list, tuple))]
    chunks = sum(-(-x.numel() // CHUNK) for x in lists[0])
    return max(-(-len(lists[0]) // LIST[len(lists)]), -(-chunks // CHUNKS))


def sketches(shapes: Shapes, device: torch.device, in_place: bool | None = None) -> dict[str, DeviceSketch]:
    """256 numbers for each of at most 16 groups, by the folds that there are; ``in_place`` as of the one in torch."""
    sizes = [math.prod(s) for s in shapes.values()]
    names, group = assign(list(shapes), sizes)
    parts = [Part(name, g, n) for name, g, n in zip(shapes, group, sizes, strict=True)]
    S = FoldHash(256)
    best, plain = (DeviceSketch(S, parts, len(names), device) for _ in range(2))
    plain._fold = BlockFold(S, parts, plain._to, in_place)
    return {"torch": plain} | ({"Triton": best} if isinstance(best._fold, TritonFold) else {})


def step(sketch: DeviceSketch, gradients: list[torch.Tensor]) -> torch.Tensor:
    """Sketch one step."""
    folded = sketch.zero()
    sketch.fold(folded, [g.view(-1) for g in gradients])
    return sketch.sketch(folded)[0]


def count(sketch: DeviceSketch, gradients: list[torch.Tensor]) -> Traffic:
    """What one step moves."""
    with Traffic() as traffic:
        step(sketch, gradients)
    if isinstance(fold := sketch._fold, TritonFold):  # whose kernels torch does not see
        traffic.kernels += len(fold._launches) + 1
        segments = len(fold._segments) - 1
        sums = (2 * segments + 2 * sketch._groups) * sketch._m  # of segments and groups, each written and read
        traffic.bytes += sum(map(size, gradients)) + sums * sketch._to.dtype.itemsize
    return traffic


def milliseconds(f: Callable[[], object], device: torch.device, steps: int) -> tuple[float, float]:
    """Of one call, when many follow each other: until the device is done, and of this thread's processor."""
    wait = torch.accelerator.synchronize if device.type not in ("cpu", "meta") else lambda: None
    for _ in range(3):
        f()
    wait()
    start, started = time.perf_counter(), time.thread_time()
    for _ in range(steps):
        f()
    spent = time.thread_time() - started
    wait()
    return 1e3 * (time.perf_counter() - start) / steps, 1e3 * spent / steps


def rows(device: torch.device, names: list[str], share: int, steps: int) -> Iterator[str]:
    """Lines of the table."""
    yield "| model | entries | dtype | fold | one read, ms | sketch, ms | ratio | start, ms | bytes/entry | kernels |"
    yield "|---|--:|---|---|--:|--:|--:|--:|--:|--:|"
    for name in names:
        shapes = {n: (-(-s[0] // share), *s[1:]) for n, s in MODELS[name]().items()}
        entries = sum(map(math.prod, shapes.values()))
        for dtype in (torch.float32, torch.bfloat16):
            gradients = [torch.empty(s, dtype=dtype, device=device).normal_() for s in shapes.values()]
            head = f"| {name} | {entries:,} | {str(dtype)[6:]} |"
            floor, _ = milliseconds(partial(torch._foreach_norm, gradients), device, steps)
            for kind, sketch in sketches(shapes, device, device.type == "meta" or None).items():
                moved = count(sketch, gradients)
                counts = f"{moved.bytes / entries:.1f} | {moved.kernels} |"
                took, host = milliseconds(partial(step, sketch, gradients), device, steps)
                times = f"{floor:.2f} | {took:.2f} | {took / floor:.1f}" if device.type != "meta" else "| |"
                yield f"{head} {kind} | {times} | {host:.2f} | {counts}"


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description="The sketch of a step on a device.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--share", type=int, default=1, help="of each tensor's first dimension, one in SHARE")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    for line in rows(torch.device(options.device), options.models, options.share, options.steps):
        print(line, flush=True)


if __name__ == "__main__":
    main()
