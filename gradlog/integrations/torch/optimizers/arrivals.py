"""Runs that begin with the first steps of their optimizers, of which torch's global hook tells."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradlog.integrations.torch.optimizers.compiled import compiling, listen, plain, tell
from gradlog.integrations.torch.optimizers.optimizer import parameters
from gradlog.integrations.torch.optimizers.patches import every_step
from gradlog.integrations.torch.optimizers.steps import closure_of, computes
from gradlog.integrations.torch.optimizers.together import Choice, First, Pattern
from gradlog.integrations.torch.types import Args, Gradients, Kwargs, Tensors


class Arrivals:
    """Watches the steps of all optimizers of this process and tells which of them make a run, when it begins.

    Parameters
    ----------
    choice : {"auto", "together", "separate"}
        As of :class:`~gradlog.integrations.torch.optimizers.together.Pattern`.
    begin : callable
        ``begin(run)`` with the first step of each optimizer of a run; called before the newest of these steps.
    among : sequence of Optimizer, optional
        Which optimizers are watched; their closures, if they have any, compute no gradient. Default: all of this
        process; a step whose closure may compute a gradient is no part of a joint one.

    Attributes
    ----------
    stepped : bool
        Whether any optimizer took a step.
    """

    def __init__(
        self, choice: Choice, begin: Callable[[list[First]], None], among: Sequence[Optimizer] | None = None
    ) -> None:
        self.stepped, self._among = False, among
        self._pattern, self._begin = Pattern(choice, among), begin
        self._pid = os.getpid()
        self._compiled: dict[int, weakref.ref[Optimizer]] = {}
        every_step.stay(True)  # the hook attaches and closes, in the middle of a step
        self._key = listen(self)
        self._handle = register_optimizer_step_pre_hook(self._before_step)

    def close(self) -> None:
        """Take the hook off, and begin the run of those whose first step is held."""
        self._handle.remove()
        every_step.stay(False)
        for run in self._pattern.rest():
            self._begin(run)

    def _before_step(self, optimizer: Optimizer, args: Args, kwargs: Kwargs) -> None:
        first = parameters(optimizer)[:1]
        if compiling() and plain(first):
            tell(self._key, "step", first)
        else:
            self._step(optimizer, self._among is None and computes(closure_of(args, kwargs)))

    def told(self, event: str, params: Tensors, grads: Gradients, numbers: Tensors) -> None:
        """Find the optimizer whose step is compiled, by its first parameter; it is recorded from the next step on."""
        place = params[0].data_ptr()
        if place in self._compiled and self._compiled[place]() is not None:
            return
        for one in gc.get_objects():
            if issubclass(type(one), Optimizer) and any(p.data_ptr() == place for p in parameters(one)[:1]):
                self._compiled[place] = weakref.ref(one)
                self._step(one, alone=True)

    def _step(self, optimizer: Optimizer, alone: bool) -> None:
        watched = self._among is None or any(optimizer is one for one in self._among)
        if watched and os.getpid() == self._pid:
            self.stepped = True
            for run in self._pattern.before(optimizer, alone):
                self._begin(run)
