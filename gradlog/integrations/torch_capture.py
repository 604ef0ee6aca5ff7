"""The hooks of one optimizer.

The pre-hook fires once a step, after accumulation, averaging by DDP, unscaling and clipping. Two cases need care:
a step with a closure runs the backward pass inside itself, so the gradient exists only in the post-hook; and a
fused optimizer under ``GradScaler`` is handed scaled gradients together with ``grad_scale`` and ``found_inf``, which
its kernel may unscale in place. Nothing is stored on the model, and only the optimizer keeps a capture alive.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from gradlog.errors import GradientError
from gradlog.integrations.torch_measure import HostMeasure, Measure, Pieces, divided, measure_for
from gradlog.integrations.torch_watch import unwatch, watch
from gradlog.logger import Logger
from gradlog.recording import Fill, Row
from gradlog.schema import RunHeader


class Capture:
    """Gradients of one optimizer, and what is known about each step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Hooks go on it.
    params : list of Tensor
        In the order of the run's tensors.
    logger : Logger
        Takes the rows; on ranks that write nothing, an inactive one.
    header : RunHeader
        What the run records.
    measure : HostMeasure or Measure
        Makes sketches of gradients.
    names : callable
        Gives (name, parameter) of all that the optimizer trains now.
    """

    _early: Fill | None
    _clip: dict[str, Any]
    _clipped: set[int]
    _scale: Any
    _unscaled: bool

    def __init__(
        self,
        optimizer: Any,
        params: list[Any],
        logger: Logger,
        header: RunHeader,
        measure: HostMeasure | Measure,
        names: Callable[[], list[tuple[str, Any]]],
    ) -> None:
        self._optimizer, self._params, self._logger = optimizer, params, logger
        self._mine = set(map(id, params))
        self._measure, self._names = measure, names
        self._fixed = header.sketch.exact or header.stage == "local"
        self._share = float(dist.get_world_size()) if header.stage == "local" and _ranks() else None
        self._exchange = getattr(measure, "exchange", None)
        self._every, self._preclip = header.every, header.stage == "preclip"
        self._count: int | None = None
        self._writes = logger.active
        self._known = self._mine | self._trainable()
        self._pid = os.getpid()
        self._fired = True
        self._forget()
        watch(self)
        self._handles = [
            optimizer.register_step_pre_hook(torch.compiler.disable(self.before)),
            optimizer.register_step_post_hook(torch.compiler.disable(self.after)),
        ]
        remove, keep = weakref.WeakMethod(self.remove), weakref.WeakMethod(self.keep)
        logger.on_close(
            lambda: off() if (off := remove()) else unwatch(), keep=lambda: on() if (on := keep()) else None
        )
        self.keep()

    def remove(self) -> None:
        """Take the hooks off; among several ranks, ask for it in the next exchange, after which they do nothing."""
        if self._exchange is not None and not self._exchange.over:
            self._exchange.leaving = True
            return
        for handle in self._handles:
            handle.remove()
        unwatch(self)

    def keep(self) -> None:
        """Hand in a sketch of the parameters: at the start, at checkpoints and at the end."""
        if self._exchange is None and self._here:
            self._logger.snapshot(lambda: self._measure.now(self._params))

    def before(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the optimizer's step."""
        self._fired = True
        if self._here and not _closure(args, kwargs):
            self._record(self._row)
            self._forget()

    def after(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Post-hook of the optimizer's step."""
        if self._here and _closure(args, kwargs):
            self._record(self._row)
            self._forget()

    def clipping(self, parameters: list[Any], max_norm: Any, total_norm: Any) -> None:
        """Norm clipping is about to happen: keep its coefficient and, for stage "preclip", the gradient."""
        ids = self._mine.intersection(map(id, parameters))
        if not ids or not self._here:
            return
        with self._logger.guarded():
            if ids & self._clipped:  # once more, or the first time was for a step that was never taken
                self._forget_clipping()
            nth = f"/{len(self._clip) // 2}" if self._clip else ""
            self._clipped |= ids
            norm = (total_norm.full_tensor() if hasattr(total_norm, "full_tensor") else total_norm).detach()
            self._clip[f"clip_norm{nth}"] = norm
            self._clip[f"clip_coef{nth}"] = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
            if self._preclip and self._early is None and self._due():
                self._early = self._in_step(lambda: self._measure.now(self._gradients()))

    def stepping(self, scaler: Any, optimizer: Any) -> Callable[[], None] | None:
        """Watch a GradScaler's step: if it does not call the optimizer, that step was skipped."""
        if optimizer is not self._optimizer or not self._here or not scaler.is_enabled():
            return None
        with self._logger.guarded():
            scale = scaler._get_scale_async()
            self._scale = None if scale is None else _number(scale)
            self._unscaled = scaler._per_optimizer_states[id(optimizer)]["stage"].name != "READY"
        self._fired = False

        def done() -> None:
            if not self._fired:
                self._fired = True
                self._record(lambda: self._row()._replace(skipped=True))
                self._forget()

        return done

    @property
    def _here(self) -> bool:
        """Not in a forked child, and not after the ranks have agreed to stop."""
        return os.getpid() == self._pid and not (self._exchange is not None and self._exchange.over)

    def _forget(self) -> None:
        """Begin another step: nothing is known of it yet."""
        self._forget_clipping()
        self._scale, self._unscaled = None, True

    def _forget_clipping(self) -> None:
        self._early, self._clip, self._clipped = None, {}, set()

    def _gradients(self) -> list[Any]:
        return [p.grad for p in self._params]

    def _gradient(self) -> Fill:
        """Sketch of this step's gradient, free of the loss scale."""
        if self._early is not None:
            return divided(self._early, None if self._unscaled else self._scale)
        return divided(self._measure.lazy(self._gradients()), self._handed("grad_scale"))

    def _handed(self, name: str) -> Any:
        """Return what a GradScaler has put on a fused optimizer for this step, or None."""
        value = getattr(self._optimizer, name, None)
        return None if value is None else _number(value)

    def _row(self) -> Row:
        """Sketch, and what the optimizer knows about this step."""
        fill = divided(self._gradient(), self._share)
        scalars = {
            f"lr/{i}" if i else "lr": _number(g["lr"]) for i, g in enumerate(self._optimizer.param_groups) if "lr" in g
        }
        scalars.update(self._clip)
        scale = self._handed("grad_scale") if self._scale is None else self._scale
        if scale is not None:
            scalars["loss_scale"] = scale
        return Row(fill, scalars, skipped=self._handed("found_inf"), later=self._measure.later)

    def _record(self, make: Callable[[], Row]) -> None:
        self._look_for_new()
        if self._exchange is None:
            self._logger.record(make)
            return
        self._exchange.leaving |= self._writes and not self._logger.active
        if self._due():
            row = None
            with self._logger.guarded():
                row = self._in_step(make)
            if row is not None:
                self._logger.record(lambda: row)
        else:
            self._logger.record(make)  # only counts the step
        self._count = (self._count or 0) + 1

    def _in_step(self, make: Callable[[], Any]) -> Any:
        """Call ``make``; where it fails among several ranks, still take part in the exchange that they wait in."""
        done = self._exchange.rounds if self._exchange else 0
        try:
            return make()
        except Exception:
            if self._exchange is not None and self._exchange.rounds == done:
                assert isinstance(self._measure, Measure)
                self._exchange.leaving = True
                self._early = self._measure.total(self._measure.blank(), 0)
            raise

    def _due(self) -> bool:
        if self._exchange is None:
            return self._logger.due
        if self._count is None:
            # Only rank 0 knows where a continued run stands.
            number = [self._logger.state_dict().get("step", 0)]
            if self._every > 1:
                dist.broadcast_object_list(number)
            self._count = int(number[0])
        return self._count % self._every == 0

    def _trainable(self) -> set[int]:
        return {id(p) for g in self._optimizer.param_groups for p in g["params"] if p.requires_grad}

    def _look_for_new(self) -> None:
        """Let parameters that were added or unfrozen since join the run, where it can take them."""
        trainable = self._trainable()
        if trainable <= self._known or not self._logger.active:
            return
        with self._logger.guarded():
            new = [(name, p) for name, p in self._names() if id(p) not in self._known]
            self._known |= trainable
            if self._exchange is None and not (new := self._take_places(new)):
                return
            if self._fixed or self._exchange is not None:
                self._logger.warn(
                    f"{len(new)} parameters were added or unfrozen after attach and are not recorded, since the layout "
                    "of such a run is fixed; close() this logger and attach a new path to record them"
                )
            else:
                self._join(new)

    def _take_places(self, new: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Let parameters follow others of their name, as after a layer was made anew; return the rest."""
        assert self._logger.header is not None
        place = {t.name: i for i, t in enumerate(self._logger.header.tensors)}
        params = self._params[:]
        for name, p in new:
            if name in place:
                if p.shape != params[place[name]].shape:
                    raise GradientError(
                        f"{name}: expected a parameter of shape {tuple(params[place[name]].shape)}, got one of "
                        f"{tuple(p.shape)} in its place; close() this logger and attach a new path to record it"
                    )
                params[place[name]] = p
        self._params, self._mine = params, set(map(id, params))
        return [(name, p) for name, p in new if name not in place]

    def _join(self, new: list[tuple[str, Any]]) -> None:
        self._logger.join(new)
        if self._logger.header is not None:
            self._params = self._params + [p for _, p in new]
            self._mine = set(map(id, self._params))
            self._measure = measure_for(self._logger.header, self._params)
            self.keep()


class UpdateCapture(Capture):
    """The change of the parameters in each step, S(after) - S(before), without a copy of the parameters.

    With ``every=1`` the sketch after one step serves as the one before the next, so that the rows add up to the
    sketch of the difference of any two checkpoints, whoever else changed the parameters in between.
    """

    _measure: Measure  # what measure_for gives a run of updates

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._start: Pieces | None = None
        with self._logger.guarded():
            self._start = self._measure.pieces(self._params)

    def before(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook: with ``every > 1``, where the recorded step starts."""
        self._fired = True
        if self._here:
            self._look_for_new()
        if self._here and self._every > 1 and self._due():
            with self._logger.guarded():
                self._start = self._measure.pieces(self._params)

    def after(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Post-hook: where it ends."""
        if self._here:
            self._record(self._row)
            self._forget()

    def _join(self, new: list[tuple[str, Any]]) -> None:
        super()._join(new)
        self._start = self._measure.pieces(self._params)

    def _gradient(self) -> Fill:
        assert self._start is not None
        end = self._measure.pieces(self._params)
        change = [(b - a, torch.zeros_like(n)) for (a, _), (b, n) in zip(self._start, end, strict=True)]
        self._start = end
        fill = self._measure.total(change, 0)

        def with_norms(out: Any, norm2: Any) -> int:
            missing = fill(out, norm2)
            norm2[:] = (out.astype(float) ** 2).sum(axis=1)
            return missing

        return with_norms


def _ranks() -> bool:
    return bool(dist.is_available() and dist.is_initialized())


def _number(x: Any) -> Any:
    """Return a number, or a clone of a tensor, since its owner changes it in place."""
    return x.detach().clone() if isinstance(x, torch.Tensor) else float(x)


def _closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the step was handed a closure; ``args[0]`` is the optimizer."""
    return (args[1] if len(args) > 1 else kwargs.get("closure")) is not None
