"""Plain PyTorch: two optimizer hooks see the gradient that the optimizer consumes.

The pre-hook fires once a step, after accumulation, averaging by DDP, unscaling and clipping. Two cases need care:
a step with a closure runs the backward pass inside itself, so the gradient exists only in the post-hook; and a
fused optimizer under ``GradScaler`` is handed scaled gradients together with ``grad_scale`` and ``found_inf``.
Nothing is stored on the model, so saving, copying and compiling it work as before.
"""

from __future__ import annotations

import os
from typing import Any

from gradlog.errors import UnsupportedError
from gradlog.groups import canonical
from gradlog.logger import Logger
from gradlog.recording import Row
from gradlog.schema import SKIPPED
from gradlog.tree import as_numpy


def attach(optimizer: Any, path: str | os.PathLike[str], model: Any = None, **options: Any) -> Logger:
    """Record every ``optimizer.step()``. See :func:`gradlog.attach`.

    Raises
    ------
    UnsupportedError
        The optimizer has no step hooks (it is no ``torch.optim.Optimizer``), or holds no trainable parameter.
    """
    if not hasattr(optimizer, "register_step_pre_hook"):
        raise UnsupportedError(
            f"{type(optimizer).__name__} has no step hooks; attach to the torch.optim.Optimizer inside it, or call "
            "gradlog.open(...).step(grads)"
        )
    named = named_parameters(optimizer, model)
    if not named:
        raise UnsupportedError("the optimizer holds no parameter that requires a gradient: nothing to record")
    from gradlog import open as open_run

    logger = open_run(path, like=named, **options)
    if logger.active:
        capture = _Capture(optimizer, named, logger)
        hooks = (
            optimizer.register_step_pre_hook(capture.before),
            optimizer.register_step_post_hook(capture.after),
        )
        logger.on_close(lambda: _remove(hooks))
    return logger


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


class _Capture:
    """The pair of hooks of one optimizer."""

    def __init__(self, optimizer: Any, named: list[tuple[str, Any]], logger: Logger) -> None:
        self._named = named
        self._groups = optimizer.param_groups
        self._logger = logger

    def before(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not _closure(args, kwargs):
            self._logger.record(lambda: self._row(optimizer))

    def after(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _closure(args, kwargs):
            self._logger.record(lambda: self._row(optimizer))

    def _row(self, optimizer: Any) -> Row:
        arrays = [as_numpy(p.grad, name) for name, p in self._named]
        scale, found_inf = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        scalars = {f"lr/{i}" if i else "lr": float(g["lr"]) for i, g in enumerate(self._groups) if "lr" in g}
        flags = 0
        if found_inf is not None and float(found_inf):
            flags |= SKIPPED
        if scale is not None:
            scalars["loss_scale"] = float(scale)
            arrays = [None if a is None else a / float(scale) for a in arrays]
        return Row(arrays, scalars, flags)


def _remove(hooks: tuple[Any, ...]) -> None:
    for hook in hooks:
        hook.remove()


def _closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return (args[1] if len(args) > 1 else kwargs.get("closure")) is not None  # args[0] is the optimizer
