"""Plain PyTorch, DDP and FSDP2: one line attaches a run to an optimizer.

What is recorded is the gradient that the optimizer consumes, whatever happened to it on the way; see
:mod:`gradlog.integrations.torch_capture` for how it is caught.
"""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist

from gradlog.errors import UnsupportedError
from gradlog.groups import canonical
from gradlog.integrations.torch_capture import Capture, UpdateCapture
from gradlog.integrations.torch_measure import measure_for
from gradlog.integrations.torch_shards import is_sharded
from gradlog.logger import Logger
from gradlog.schema import RunHeader

WHAT = ("gradient", "update")


def attach(optimizer: Any, path: str | os.PathLike[str], model: Any = None, **options: Any) -> Logger:
    """Record every ``optimizer.step()``. See :func:`gradlog.attach`.

    Under ``torch.distributed`` rank 0 writes; with DTensor parameters (FSDP2) every rank must call this, and
    :meth:`~gradlog.Logger.close` ends the recording of all. With ``stage="local"`` every rank writes its own rows.

    Raises
    ------
    UnsupportedError
        The optimizer has no step hooks, holds no trainable parameter, or keeps gradients elsewhere than in ``p.grad``.
    """
    optimizer = unwrapped(optimizer)
    stage, what = options.get("stage", "consumed"), options.get("what", "gradient")
    if what not in WHAT:
        raise ValueError(f"what must be 'gradient' or 'update', got {what!r}")
    _refuse(optimizer, model, stage)
    named = named_parameters(optimizer, model)
    if not named:
        raise UnsupportedError("the optimizer holds no parameter that requires a gradient: nothing to record")
    params = [p for _, p in named]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        if any(map(is_sharded, params)):
            logger, header = _open_together(path, named, options)
        elif stage == "local":
            logger, header = _open(path, named, {"rank": dist.get_rank(), **options})
        elif dist.get_rank() > 0:
            return Logger(None)
        else:
            logger, header = _open(path, named, options)
    else:
        logger, header = _open(path, named, options)
    if header is None:
        return logger
    try:
        measure = measure_for(header, params)
    except UnsupportedError:
        logger.close()
        raise
    with logger.guarded():
        capture = (UpdateCapture if what == "update" else Capture)(optimizer, params, logger, header, measure)
        logger.on_close(capture.remove)
    return logger


def unwrapped(optimizer: Any) -> Any:
    """Find the torch optimizer inside the wrappers of Accelerate, Fabric and Lightning.

    Raises
    ------
    UnsupportedError
        There is none with step hooks.
    """
    while (inner := _inside(optimizer)) is not None:
        optimizer = inner
    if any(c.__module__.partition(".")[0] == "deepspeed" for c in type(optimizer).__mro__):
        raise UnsupportedError(
            "DeepSpeed keeps gradients in partitions of its own and leaves p.grad empty: a hook has nothing to read. "
            "Train with FSDP2 (torch.distributed.fsdp.fully_shard) to record a sharded run"
        )
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise UnsupportedError(
            f"{type(optimizer).__name__} has no step hooks; attach to the torch.optim.Optimizer inside it, or call "
            "gradlog.open(...).step(grads)"
        )
    return optimizer


def _inside(optimizer: Any) -> Any:
    held = getattr(optimizer, "__dict__", {})
    return held.get("optimizer", held.get("_optimizer"))


def named_parameters(optimizer: Any, model: Any = None) -> list[tuple[str, Any]]:
    """Trainable parameters of the optimizer, each once, under canonical names, in the model's order.

    Parameters that ``model`` does not know, or all without a model, are named by their place in the optimizer.
    """
    held = {
        id(p): (f"group{g}.{i}", p)
        for g, group in enumerate(optimizer.param_groups)
        for i, p in enumerate(group["params"])
        if p.requires_grad
    }
    known = [] if model is None else [(canonical(n), p) for n, p in model.named_parameters() if id(p) in held]
    rest = held.keys() - {id(p) for _, p in known}
    return known + [held[i] for i in held if i in rest]


def _refuse(optimizer: Any, model: Any, stage: str) -> None:
    modules = [] if model is None else [m.__class__.__name__ for m in model.modules()]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if any(hasattr(p, "ds_id") for p in params):
        raise UnsupportedError(
            "DeepSpeed ZeRO-3 partitions these parameters and leaves p.grad empty: nothing to record"
        )
    if "FullyShardedDataParallel" in modules or any(type(p).__name__ == "FlatParameter" for p in params):
        raise UnsupportedError(
            "FullyShardedDataParallel (FSDP1) flattens parameters, so that a shard's place in its tensor is unknown; "
            "torch.distributed.fsdp.fully_shard (FSDP2) can be recorded"
        )
    if stage == "local" and "DistributedDataParallel" in modules:
        raise UnsupportedError("stage='local': DistributedDataParallel has averaged the gradient before a step sees it")


def _open(path: Any, named: list[tuple[str, Any]], options: dict[str, Any]) -> tuple[Logger, RunHeader | None]:
    from gradlog import open as open_run

    logger = open_run(path, like=named, **options)
    return logger, logger.header if logger.active else None


def _open_together(path: Any, named: list[tuple[str, Any]], options: dict[str, Any]) -> tuple[Logger, RunHeader | None]:
    """Open on rank 0 and tell the others what is recorded, or what went wrong."""
    told: list[Any] = [None]
    logger = Logger(None)
    if dist.get_rank() == 0:
        try:
            logger, told[0] = _open(path, named, options)
        except Exception as error:
            told[0] = error
    dist.broadcast_object_list(told)
    if isinstance(told[0], Exception):
        raise told[0]
    return logger, told[0]
