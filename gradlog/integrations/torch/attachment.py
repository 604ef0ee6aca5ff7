"""Plain PyTorch, DDP and FSDP2: one line attaches a run to an optimizer.

What is recorded is the gradient that the optimizer consumes, whatever happened to it on the way; see
:mod:`gradlog.integrations.torch.capture` for how it is caught.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Unpack

import torch
import torch.distributed as dist

from gradlog.errors import UnsupportedError
from gradlog.format.header import RunHeader
from gradlog.integrations.torch.capture import Capture, Job
from gradlog.integrations.torch.ddp import LocalCapture, averaging
from gradlog.integrations.torch.optimizers.optimizer import named_optimizers, parameters, settings_of_all
from gradlog.integrations.torch.optimizers.optimizer_steps import Moment
from gradlog.integrations.torch.optimizers.steps import stepping
from gradlog.integrations.torch.ranks import world_size, writes
from gradlog.integrations.torch.sketching.shards import is_sharded, require_agreement
from gradlog.integrations.torch.types import Models, Named, Optimizer
from gradlog.integrations.torch.update import PairCapture, UpdateCapture
from gradlog.recorder.logger import Logger
from gradlog.recorder.options import BOTH, HookKeywords, RecordingOptions
from gradlog.sketching.groups import ByOptimizer, assign, canonical, nearest

CAPTURES: dict[object, type[Capture]] = {"gradient": Capture, "update": UpdateCapture, BOTH: PairCapture}
"""By what is recorded."""

Path = str | os.PathLike[str]
Opened = tuple[Logger, RunHeader | None]


def attach(
    optimizer: Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer],
    path: Path,
    model: Models = None,
    *,
    options: RecordingOptions | None = None,
    **keywords: Unpack[HookKeywords],
) -> Logger:
    """Record every ``optimizer.step()``. See :func:`gradlog.attach`.

    Under ``torch.distributed`` rank 0 writes, and other ranks too where they hold whole parameters and have a path of
    their own; with DTensor parameters (FSDP2) every rank must call this, and
    :meth:`~gradlog.Logger.close` ends the recording of all. With ``stage="local"`` every rank must call it, and writes
    its own rows: under DDP the gradient before the average, taken by its communication hook.

    Raises
    ------
    UnsupportedError
        The optimizer has no step hooks, holds no trainable parameter, or keeps gradients elsewhere than in ``p.grad``;
        two optimizers hold the same parameter.
    ValueError, TypeError
        ``what`` is neither "gradient" nor "update" nor both; ``model`` is no module; and as of :func:`gradlog.open`.
    """
    return record(named_optimizers(optimizer), path, model, RecordingOptions.of(options, keywords))


def record(
    optimizers: Sequence[tuple[str, Optimizer]],
    path: Path,
    model: Models,
    chosen: RecordingOptions,
    moments: Sequence[Moment | None] = (),
) -> Logger:
    """Record optimizers under these names; of those that took their first step already, it is among ``moments``."""
    if chosen.what not in CAPTURES:
        raise ValueError(f"what must be 'gradient', 'update' or ('gradient', 'update'), got {chosen.what!r}")
    watched = [(name, stepping(one)) for name, one in optimizers]
    innermost = [(name, nested[-1]) for name, nested in watched]
    models = _models(model)
    _refuse([one for _, one in innermost], models)
    names = functools.partial(_names, innermost, models, chosen)
    named = names()
    if not named:
        chosen.chosen(_names(innermost, models))  # which says so where the user has chosen none
        raise UnsupportedError("the optimizer holds no parameter that requires a gradient: nothing to record")
    if len(watched) > 1:
        chosen = _by_optimizer(chosen, innermost, named, functools.partial(_names, innermost, models))
    chosen = chosen.filled(optimizer=settings_of_all(innermost))
    logger, header, capture = _for_job(path, named, chosen)
    if header is None:
        return logger
    held = dict(named)
    params = [held[t.name] for t in header.tensors]  # the run's order: some may have joined it later
    try:
        capture(logger.recorder, Job(watched, params, header, names, moments))
    except UnsupportedError:
        logger.close()
        raise
    except Exception as error:
        with logger.recorder.guarded():
            raise error
    return logger


def _names(
    optimizers: Sequence[tuple[str, Optimizer]],
    models: Mapping[str, torch.nn.Module],
    chosen: RecordingOptions | None = None,
    frozen: bool = False,
) -> Named:
    """Parameters that the optimizers train now and that are chosen; those of unknown name by optimizer and place."""
    every = [named_parameters(one, models, f"{name}.group" if name else "group", frozen) for name, one in optimizers]
    found = {id(p): (name, p) for named in every for name, p in named}
    if len(found) < sum(map(len, every)):
        raise UnsupportedError("two of the optimizers hold the same parameter: record each in a run of its own")
    if len(every) > 1:
        place = {id(p): i for i, p in enumerate(p for model in models.values() for p in model.parameters())}
        every = [sorted(found.values(), key=lambda one: place.get(id(one[1]), len(place)))]
    return [(name, p) for name, p in every[0] if chosen is None or chosen.chooses(name)]


def _by_optimizer(
    chosen: RecordingOptions, optimizers: Sequence[tuple[str, Optimizer]], named: Named, now: Callable[..., Named]
) -> RecordingOptions:
    """Divide parameters into groups that have one optimizer each, and its name in theirs."""
    if chosen.stage == "local":
        raise UnsupportedError("stage='local' takes one optimizer: attach each to a run of its own")
    owner = {id(p): name for name, one in optimizers for p in parameters(one)}
    if len(set(owner.values())) == 1:
        return chosen
    owners = tuple(dict.fromkeys(owner[id(p)] for _, p in now(chosen, frozen=True)))
    names = [name for name, _ in named]
    groups, index = assign(names, [p.numel() for _, p in named], chosen.groups)
    label = {name: f"{owner[id(p)]}/{groups[i]}" for (name, p), i in zip(named, index, strict=True)}

    def group(name: str) -> str:
        """Group of a parameter; of one that joins later, that of its nearest relative with the same optimizer."""
        if name in label:
            return label[name]
        held = {id(p): own for own, one in optimizers for p in parameters(one)}
        own = next((held[id(p)] for other, p in now() if other == name), "")
        mine = [other for other in label if label[other].startswith(f"{own}/")]
        return label[mine[nearest(name, mine, range(len(mine)))]] if mine else f"{own}/all"

    return dataclasses.replace(chosen, groups=ByOptimizer(group, owners))


def _for_job(path: Path, named: Named, options: RecordingOptions) -> tuple[*Opened, type[Capture]]:
    """Open as one process, or as the ranks of this kind of job do; tell who captures."""
    capture = CAPTURES[options.what]
    params = [p for _, p in named]
    ranks = world_size()
    if ranks == 1:
        return *_open(path, named, options), capture
    if any(map(is_sharded, params)):
        if options.stage == "local":
            raise UnsupportedError(
                "stage='local': sharded training reduces gradients before any rank holds its own whole"
            )
        return *_open_together(path, named, options), capture
    if options.stage == "local":
        if options.what == "gradient" and averaging(params):
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


def named_parameters(
    optimizer: Optimizer, models: Mapping[str, torch.nn.Module], place: str = "group", frozen: bool = False
) -> Named:
    """Trainable parameters of the optimizer, each once, under canonical names, in the models' order.

    Parameters that none of the models knows are named by their place in the optimizer, after ``place``. ``frozen``:
    those that are not trained now are among them.
    """
    held = {
        id(p): (f"{place}{g}.{i}", p)
        for g, group in enumerate(optimizer.param_groups)
        for i, p in enumerate(group["params"])
        if frozen or p.requires_grad
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


def _refuse(optimizers: Sequence[Optimizer], models: Mapping[str, torch.nn.Module]) -> None:
    modules = [m.__class__.__name__ for model in models.values() for m in model.modules()]
    params = [p for one in optimizers for p in parameters(one)]
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


def _open(path: Path, named: Named, options: RecordingOptions) -> Opened:
    from gradlog import open as open_run

    logger = open_run(path, like=named, options=options)
    return logger, logger.header if logger.active else None


def _open_together(path: Path, named: Named, options: RecordingOptions) -> Opened:
    """Open on rank 0 and tell the others what is recorded, or what went wrong."""
    logger, header = _first(lambda: _open(path, named, options), lambda header, place: (Logger(None), header))
    if header is not None:
        try:
            require_agreement(header, named)
        except UnsupportedError:
            logger.close()
            raise
    return logger, header


def _open_each(path: Path, named: Named, options: RecordingOptions) -> Opened:
    """Open on every rank: on rank 0 first, which may have to replace an older run, then the others join."""
    mode = options.mode
    follow = dataclasses.replace(options, mode="a" if mode in ("w", "new") else mode, rank=dist.get_rank())
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
