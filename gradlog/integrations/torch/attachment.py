"""Plain PyTorch, DDP and FSDP2: one line attaches a run to an optimizer.

What is recorded is the gradient that the optimizer consumes, whatever happened to it on the way; see
:mod:`gradlog.integrations.torch.capture` for how it is caught.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from gradlog.errors import UnsupportedError
from gradlog.format.header import RunHeader
from gradlog.integrations.hooks import Option, Options
from gradlog.integrations.torch.capture import Capture
from gradlog.integrations.torch.ddp import LocalCapture, averaging
from gradlog.integrations.torch.optimizer import settings
from gradlog.integrations.torch.ranks import writes
from gradlog.integrations.torch.shards import is_sharded, require_agreement
from gradlog.integrations.torch.sketchers import measure_for
from gradlog.integrations.torch.steps import stepping
from gradlog.integrations.torch.types import Models, Named, Optimizer
from gradlog.integrations.torch.update import UpdateCapture
from gradlog.recorder.logger import Logger
from gradlog.sketching.groups import canonical

WHAT = ("gradient", "update")

Path = str | os.PathLike[str]
Opened = tuple[Logger, RunHeader | None]


def attach(optimizer: Optimizer, path: Path, model: Models = None, **options: Option) -> Logger:
    """Record every ``optimizer.step()``. See :func:`gradlog.attach`.

    Under ``torch.distributed`` rank 0 writes, and other ranks too where they hold whole parameters and have a path of
    their own; with DTensor parameters (FSDP2) every rank must call this, and
    :meth:`~gradlog.Logger.close` ends the recording of all. With ``stage="local"`` every rank must call it, and writes
    its own rows: under DDP the gradient before the average, taken by its communication hook.

    Raises
    ------
    UnsupportedError
        The optimizer has no step hooks, holds no trainable parameter, or keeps gradients elsewhere than in ``p.grad``.
    ValueError, TypeError
        ``what`` is neither "gradient" nor "update"; ``model`` is no module; and as of :func:`gradlog.open`.
    """
    optimizers = stepping(optimizer)
    optimizer = optimizers[-1]
    stage, what = options.get("stage", "consumed"), options.get("what", "gradient")
    if what not in WHAT:
        raise ValueError(f"what must be 'gradient' or 'update', got {what!r}")
    models = _models(model)
    _refuse(optimizer, models)
    named = named_parameters(optimizer, models)
    if not named:
        raise UnsupportedError("the optimizer holds no parameter that requires a gradient: nothing to record")
    logger, header, capture = _for_job(path, named, {"optimizer": settings(optimizer), **options}, stage, what)
    if header is None:
        return logger
    held = dict(named)
    params = [held[t.name] for t in header.tensors]  # the run's order: some may have joined it later
    try:
        names = functools.partial(named_parameters, optimizer, models)
        capture(optimizers, params, logger, header, measure_for(header, params), names)
    except UnsupportedError:
        logger.close()
        raise
    except Exception as error:
        with logger.recorder.guarded():
            raise error
    return logger


def _for_job(path: Path, named: Named, options: Options, stage: str, what: str) -> tuple[*Opened, type[Capture]]:
    """Open as one process, or as the ranks of this kind of job do; tell who captures."""
    capture = UpdateCapture if what == "update" else Capture
    params = [p for _, p in named]
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if ranks == 1:
        return *_open(path, named, options), capture
    if any(map(is_sharded, params)):
        if stage == "local":
            raise UnsupportedError(
                "stage='local': sharded training reduces gradients before any rank holds its own whole"
            )
        return *_open_together(path, named, options), capture
    if stage == "local":
        if what == "gradient" and averaging(params):
            capture = LocalCapture
        return *_open_each(path, named, options), capture
    first = dist.get_rank() == 0 if averaging(params) else writes(path, named)  # DDP has compared parameters itself
    return *(_open(path, named, options) if first else (Logger(None), None)), capture


def _models(model: Models) -> dict[str, torch.nn.Module]:
    """Modules by what goes before the names of their parameters."""
    models = {} if model is None else dict(model) if isinstance(model, Mapping) else {"": model}
    for name, module in models.items():
        if not isinstance(module, torch.nn.Module) or not isinstance(name, str):
            raise TypeError(f"expected model to be a torch.nn.Module, or a dict of them, got {type(module).__name__}")
    return models


def named_parameters(optimizer: Optimizer, models: Mapping[str, torch.nn.Module]) -> Named:
    """Trainable parameters of the optimizer, each once, under canonical names, in the models' order.

    Parameters that none of the models knows are named by their place in the optimizer.
    """
    held = {
        id(p): (f"group{g}.{i}", p)
        for g, group in enumerate(optimizer.param_groups)
        for i, p in enumerate(group["params"])
        if p.requires_grad
    }
    found: dict[int, tuple[str, str, torch.Tensor]] = {}
    for prefix, model in models.items():
        for name, p in model.named_parameters():
            if id(p) in held:
                found.setdefault(id(p), (f"{prefix}." if prefix else "", name, p))
    short = [prefix + canonical(name) for prefix, name, _ in found.values()]
    if len(set(short)) < len(short):  # a wrapper's mark tells two of them apart
        short = [prefix + name for prefix, name, _ in found.values()]
    known = [(name, p) for name, (_, _, p) in zip(short, found.values(), strict=True)]
    return [*known, *(held[i] for i in held if i not in found)]


def _refuse(optimizer: Optimizer, models: Mapping[str, torch.nn.Module]) -> None:
    modules = [m.__class__.__name__ for model in models.values() for m in model.modules()]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if any(map(torch.nn.parameter.is_lazy, params)):
        raise UnsupportedError("parameters of lazy modules have no shape yet: run one batch through the model first")
    if any(p.device.type == "meta" for p in params):
        raise UnsupportedError(
            "parameters on the meta device have no values: attach after the model has them, to an optimizer made then"
        )
    if any(hasattr(p, "ds_id") for p in params):
        raise UnsupportedError(
            "DeepSpeed ZeRO-3 partitions these parameters and leaves p.grad empty: nothing to record"
        )
    if "FullyShardedDataParallel" in modules or any(type(p).__name__ == "FlatParameter" for p in params):
        raise UnsupportedError(
            "FullyShardedDataParallel (FSDP1) flattens parameters, so that a shard's place in its tensor is unknown; "
            "torch.distributed.fsdp.fully_shard (FSDP2) can be recorded"
        )


def _open(path: Path, named: Named, options: Options) -> Opened:
    from gradlog import open as open_run

    logger = open_run(path, like=named, **options)
    return logger, logger.header if logger.active else None


def _open_together(path: Path, named: Named, options: Options) -> Opened:
    """Open on rank 0 and tell the others what is recorded, or what went wrong."""
    logger, header = _first(lambda: _open(path, named, options), lambda header, place: (Logger(None), header))
    if header is not None:
        try:
            require_agreement(header, named)
        except UnsupportedError:
            logger.close()
            raise
    return logger, header


def _open_each(path: Path, named: Named, options: Options) -> Opened:
    """Open on every rank: on rank 0 first, which may have to replace an older run, then the others join."""
    mode = options.get("mode", "w-")
    follow = {**options, "mode": "a" if mode in ("w", "new") else mode, "rank": dist.get_rank()}
    return _first(
        lambda: _open(path, named, options),
        lambda header, place: _open(place if place and (mode == "new" or not path) else path, named, follow),
    )


def _first(opens: Callable[[], Opened], follows: Callable[[RunHeader | None, str], Opened]) -> Opened:
    """Let rank 0 open, then the others, who are told what and where; what it raises, all raise."""
    opened: Opened = Logger(None), None
    error: Exception | None = None
    if dist.get_rank() == 0:
        try:
            opened = opens()
        except Exception as failed:
            error = failed
    told = [(error, opened[1], opened[0].path)]
    dist.broadcast_object_list(told)
    error, header, place = told[0]
    if error is not None:
        raise error
    return opened if dist.get_rank() == 0 else follows(header, place)
