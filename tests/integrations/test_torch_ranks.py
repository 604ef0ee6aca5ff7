"""Several gloo processes record what one process would have recorded."""

from __future__ import annotations

import copy
import datetime
import faulthandler
import multiprocessing
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import zarr
from torch import nn

import gradlog
from gradlog.errors import UnsupportedError

# Now and then a rank aborts inside gloo while its process ends ("terminate called without an active exception"). That
# is torch's own; any other failure counts at once.
pytestmark = [pytest.mark.slow, pytest.mark.flaky(reruns=3, only_rerun=["SIGABRT"])]

STEPS = 3


@pytest.fixture(scope="module", autouse=True)
def imported_once():
    """Ranks are forks of a process that does nothing but import; each of them would take seconds for that otherwise."""
    multiprocessing.set_forkserver_preload([__name__, "torch.distributed.tensor.parallel", "torch._dynamo"])


def spawn(function, arguments, ranks):
    mp.start_processes(function, args=arguments, nprocs=ranks, start_method="forkserver")


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(22, 302), nn.Tanh(), nn.Linear(302, 5), nn.LayerNorm(5))


def optimizers_of(model, several):
    """One, or one for the first layer and one for the rest."""
    params = list(model.parameters())
    if not several:
        return [torch.optim.AdamW(params, lr=1e-2)]
    return [torch.optim.SGD(params[:2], lr=1e-2), torch.optim.AdamW(params[2:], lr=1e-2)]


def batches(ranks):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(ranks, 4, 22, generator=generator) for _ in range(STEPS)]


def reference(path, ranks, clip=0.05, several=False, **options):
    """Gradients of the mean over ranks, in one process."""
    model = build()
    optimizers = optimizers_of(model, several)
    with gradlog.attach(optimizers, path, model=model, on_error="raise", k=48, **options):
        for x in batches(ranks):
            model.zero_grad()
            model(x.flatten(0, 1)).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            for one in optimizers:
                one.step()


def shard(model, kind, ranks):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    if kind == "local":
        return model
    if kind == "tensor parallel":
        mesh = init_device_mesh("cpu", (ranks // 2, 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(model, mesh=mesh["data"])
        return model
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if kind == "hybrid":
        mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh("cpu", (ranks,))
    place = (lambda p: Shard(p.ndim - 1 if p.shape[-1] % ranks == 0 else 0)) if kind == "columns" else None
    for part in (model[0], model[2]):
        fully_shard(part, mesh=mesh, shard_placement_fn=place)
    if kind != "mixed":
        fully_shard(model, mesh=mesh, shard_placement_fn=place)
    return model


def work(rank, ranks, folder, kind, options, several=False):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(300, exit=True)  # a rank that hangs tells where
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=60)
    )
    try:
        model = shard(build(), kind, ranks)
        optimizers = optimizers_of(model, several)
        log = gradlog.attach(optimizers, f"{folder}/{kind}.zarr", model=model, on_error="raise", k=48, **options)
        assert log.active == (rank == 0 or kind == "local")
        for t, x in enumerate(batches(ranks // 2 if kind == "tensor parallel" else ranks)):
            model.zero_grad()
            model(x[rank // 2 if kind == "tensor parallel" else rank]).square().mean().backward()
            if kind == "mixed":  # the last layer is not wrapped: average it by hand, as its user must
                for p in model[3].parameters():
                    dist.all_reduce(p.grad)
                    p.grad /= ranks
            elif kind != "tensor parallel":  # which torch does not clip
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            for one in optimizers:
                one.step()
            if kind == "leaves" and t == 0 and rank == 0:
                log.close()  # the other ranks go on: nobody may wait for rank 0
        log.close()
        dist.barrier()
    finally:
        dist.destroy_process_group()
        faulthandler.cancel_dump_traceback_later()


def launch(ranks, folder, kind, several=False, **options):
    spawn(work, (ranks, str(folder), kind, options, several), ranks)


@pytest.mark.parametrize(("kind", "several"), [
    ("ddp", False), ("fsdp", False), ("columns", False), ("ddp", True), ("fsdp", True),
])  # fmt: skip
def test_two_ranks_equal_one(tmp_path, recorded, kind, several):
    """Also where two optimizers make one run."""
    launch(2, tmp_path, kind, several)
    reference(tmp_path / "one.zarr", 2, several=several)
    one, two = recorded(tmp_path / "one.zarr"), recorded(tmp_path / f"{kind}.zarr")
    assert two.header.tensors == one.header.tensors
    assert two.run.info["ranks"] == 1
    np.testing.assert_allclose(two.sketch, one.sketch, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(two.norm2, one.norm2, rtol=1e-4)
    np.testing.assert_allclose(two.scalars["clip_coef"], one.scalars["clip_coef"], rtol=1e-4)


@pytest.mark.parametrize(("ranks", "kind", "options"), [
    (4, "hybrid", {}),
    (4, "tensor parallel", {}),
    (4, "fsdp", {"stage": "preclip"}),
    (2, "fsdp", {"what": ("gradient", "update")}),
    (2, "fsdp", {"every": 2}),
])  # fmt: skip
def test_more_meshes_and_options(tmp_path, recorded, ranks, kind, options):
    launch(ranks, tmp_path, kind, **options)
    alone = {"ranks": ranks // 2, "clip": np.inf} if kind == "tensor parallel" else {"ranks": ranks}
    reference(tmp_path / "one.zarr", **alone, **options)
    one, many = recorded(tmp_path / "one.zarr"), recorded(tmp_path / f"{kind}.zarr")
    assert many.steps == one.steps
    np.testing.assert_allclose(many.sketch, one.sketch, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(many.norm2, one.norm2, rtol=1e-3)
    if "what" in options:
        updates = [run.run.updates.read(0, STEPS) for run in (one, many)]
        np.testing.assert_allclose(*updates, rtol=1e-3, atol=1e-5)


def test_a_rank_that_leaves_blocks_nobody(tmp_path, recorded):
    launch(2, tmp_path, "leaves")
    assert recorded(tmp_path / "leaves.zarr").steps == [0]


def test_plain_parameters_beside_sharded_ones_count_once(tmp_path, recorded):
    launch(2, tmp_path, "mixed")
    model = build()
    twin = copy.deepcopy(model)
    assert twin is not model
    x = batches(2)[0]
    model(x.flatten(0, 1)).square().mean().backward()
    expected = sum(float(p.grad.square().sum()) for p in model.parameters())
    np.testing.assert_allclose(recorded(tmp_path / "mixed.zarr").norm2[0].sum(), expected, rtol=1e-4)


def test_local_gradients_of_ranks_that_nobody_averages(tmp_path, recorded):
    launch(2, tmp_path, "local", stage="local")
    run = recorded(tmp_path / "local.zarr")
    assert run.run.info["ranks"] == 2
    assert run.steps == list(range(STEPS))
    rows = []
    for rank in range(2):
        model = build()
        model(batches(2)[0][rank]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        rows.append({n: p.grad.numpy() for n, p in model.named_parameters()})
    mean = {n: (rows[0][n] + rows[1][n]) / 2 for n in rows[0]}
    run.steps, run.sketch = run.steps[:1], run.sketch[:1]
    run.expect([mean], norms=False)


def local_work(rank, ranks, folder, scaled):
    """DDP with accumulation under no_sync; afterwards recorded twice: before and after the average."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=60)
    )
    try:
        model = torch.nn.parallel.DistributedDataParallel(build(), bucket_cap_mb=0.02)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=scaled)
        options = {"k": 48, "on_error": "raise"}
        log = gradlog.attach(optimizer, f"{folder}/local.zarr", model=model.module, stage="local", mode="w", **options)
        mean = gradlog.attach(optimizer, f"{folder}/mean.zarr", model=model, stage="preclip", **options)
        assert log.active
        torch.save(model, f"{folder}/model-{rank}.pt")  # the hook's state must not stand in the way
        own = []
        for x in batches(ranks):
            optimizer.zero_grad()
            twin = build()
            twin.load_state_dict(model.module.state_dict())
            for part in x[rank].chunk(2):
                twin(part).square().mean().backward()
            own.append({n: p.grad.numpy().copy() for n, p in twin.named_parameters()})
            first, second = x[rank].chunk(2)
            with model.no_sync():
                scaler.scale(model(first).square().mean()).backward()
            scaler.scale(model(second).square().mean()).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            scaler.step(optimizer)
            scaler.update()
        log.close()
        mean.close()
        np.savez(f"{folder}/own-{rank}.npz", **{f"{t}|{n}": g for t, row in enumerate(own) for n, g in row.items()})
        optimizer.zero_grad()
        model(x[rank]).square().mean().backward()  # DDP still averages when nobody listens
        again = gradlog.attach(optimizer, f"{folder}/again.zarr", model=model, stage="local", **options)
        model(x[rank]).square().mean().backward()
        optimizer.step()
        again.close()
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("scaled", [False, True])
def test_local_gradients_under_ddp(tmp_path, recorded, scaled):
    """Each rank's rows are its share of the gradient, and add up to what DDP averages."""
    spawn(local_work, (2, str(tmp_path), scaled), 2)
    local, mean = recorded(tmp_path / "local.zarr"), recorded(tmp_path / "mean.zarr")
    assert local.run.info["ranks"] == 2
    assert local.steps == mean.steps == list(range(STEPS))
    np.testing.assert_allclose(local.sketch, mean.sketch, rtol=1e-4, atol=1e-6)
    store = zarr.open_group(tmp_path / "local.zarr", mode="r")
    for rank in range(2):
        stored = np.load(tmp_path / f"own-{rank}.npz")
        rows = [{n: stored[f"{t}|{n}"] / 2 for n, _ in build().named_parameters()} for t in range(STEPS)]
        member = store[f"seg-000000-r{rank:04d}"]
        local.sketch, local.norm2 = member["sketch"][:], member["group_norm2"][:]
        local.expect(rows, rtol=1e-4)
    assert recorded(tmp_path / "again.zarr").run.info["ranks"] == 2


def refused_work(rank, ranks, folder):
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    warnings.simplefilter("error")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=60)
    )
    try:
        for builtin in (False, True):
            model = torch.nn.parallel.DistributedDataParallel(build())
            if builtin:
                model._register_builtin_comm_hook(dist.BuiltinCommHookType.ALLREDUCE)
            else:
                model.register_comm_hook(None, default_hooks.fp16_compress_hook)
            hooks = len(model._comm_hooks)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
            with pytest.raises(UnsupportedError, match="communication hook already"):
                gradlog.attach(optimizer, f"{folder}/{builtin}.zarr", model=model, stage="local")
            assert len(model._comm_hooks) == hooks
            assert not optimizer._optimizer_step_pre_hooks
        optimizer = torch.optim.SGD(shard(build(), "fsdp", ranks).parameters(), lr=1e-2)
        with pytest.raises(UnsupportedError, match="before any rank holds its own"):
            gradlog.attach(optimizer, f"{folder}/sharded.zarr", stage="local")
        with pytest.raises(UnsupportedError, match="k='exact' needs whole gradients"):
            gradlog.attach(optimizer, f"{folder}/exact.zarr", k="exact")
        model = shard(build(), "fsdp", ranks)
        optimizer = torch.optim.SGD(model[2 * rank].parameters(), lr=1e-2)  # a pipeline's stages
        with pytest.raises(UnsupportedError, match="rank 1 holds other parameters"):
            gradlog.attach(optimizer, f"{folder}/pipeline.zarr")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def test_what_ranks_cannot_record_is_refused(tmp_path):
    spawn(refused_work, (2, str(tmp_path)), 2)


def plain_work(rank, ranks, folder):
    """Ranks that hold whole parameters, which nobody averages."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=60)
    )
    try:
        model = build()
        stage = nn.ModuleDict({str(rank): model[2 * rank]})  # a pipeline's
        optimizer = torch.optim.SGD(stage.parameters(), lr=1e-2)
        with pytest.raises(UnsupportedError, match="rank 1 holds other parameters than rank 0, as in a pipeline"):
            gradlog.attach(optimizer, f"{folder}/shared.zarr", model=stage)
        own = gradlog.attach(optimizer, f"{folder}/stage-{rank}.zarr", model=stage, k=48, on_error="raise")
        assert own.active
        model(batches(ranks)[0][0]).square().mean().backward()
        optimizer.step()
        own.close()
        same = gradlog.attach(torch.optim.SGD(model.parameters()), f"{folder}/same.zarr", model=model, k=48)
        assert same.active == (rank == 0)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def test_ranks_with_other_parameters_or_other_paths(tmp_path, recorded):
    """Under one path they are refused; with paths of their own, each records its part."""
    spawn(plain_work, (2, str(tmp_path)), 2)
    model = build()
    model(batches(2)[0][0]).square().mean().backward()
    for rank in range(2):
        stage = nn.ModuleDict({str(rank): model[2 * rank]})
        recorded(tmp_path / f"stage-{rank}.zarr").expect([{n: p.grad.numpy() for n, p in stage.named_parameters()}])
    assert not (tmp_path / "shared.zarr").exists()
