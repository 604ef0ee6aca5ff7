"""Which optimizers of a script make one run: told by when they step.

Optimizers that step between the same two backward passes use gradients of one moment, as Muon beside AdamW, and make
one run. Where a backward pass lies between their steps, as in a GAN or between actor and critic, each makes its own. So
the first step of an optimizer is held, until the next step of any tells, if others have gradients too. One optimizer
per parameter that steps inside the backward pass makes one run with all of its class.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch.optim import Optimizer

from gradlog.integrations.torch.optimizers.modules import modules_of
from gradlog.integrations.torch.optimizers.optimizer import counted, parameters
from gradlog.integrations.torch.optimizers.optimizer_steps import Moment
from gradlog.integrations.torch.optimizers.patches import backward_passes
from gradlog.integrations.torch.optimizers.steps import nested

Choice = Literal["auto", "together", "separate"]


class First(NamedTuple):
    """The first step of an optimizer.

    Attributes
    ----------
    counted : int
        Steps that it had counted before.
    moment, modules : Moment, dict of str to Module
        Where the step is held: what the optimizer was handed, and the modules that it trains, which stay alive.
    """

    optimizer: Optimizer
    counted: int
    moment: Moment | None = None
    modules: Mapping[str, torch.nn.Module] = {}


class Pattern:
    """Watches the first steps of optimizers and tells which of them make a run.

    Parameters
    ----------
    choice : {"auto", "together", "separate"}
        By their steps; all that there are at the first step in one run; or each in a run of its own.
    among : sequence of Optimizer, optional
        Which optimizers there are. Default: all of this process.
    """

    def __init__(self, choice: Choice = "auto", among: Sequence[Optimizer] | None = None) -> None:
        self._choice, self._among = choice, among
        self._known: list[weakref.ref[Optimizer]] = []
        self._waiting: list[First] = []
        self._passed = False  # whether a backward pass ran since the first step that waits

    def before(self, optimizer: Optimizer, closure: bool = False) -> list[list[First]]:
        """Note that an optimizer is about to step; return the runs that begin now, each with its optimizers."""
        runs = []
        again = any(first.optimizer is optimizer for first in self._waiting)
        if again or self._passed:
            runs = self.rest()
        if again or any(known() is optimizer for known in self._known) or self._inside(optimizer):
            return runs
        first = First(optimizer, counted(optimizer))
        others = [] if closure or self._choice == "separate" else self._others(optimizer)
        if self._choice == "together":
            return [*runs, self._begun([first, *(First(one, counted(one)) for one in others)])]
        if torch._C._current_graph_task_id() != -1:  # inside a backward pass
            alike = [First(one, counted(one)) for one in others if type(one) is type(optimizer)]
            return [*runs, self._begun([first, *alike])]
        if any(p.grad is not None for one in others for p in parameters(one)):
            self._waiting.append(first._replace(moment=Moment.of(optimizer), modules=modules_of(optimizer)))
            backward_passes.wait(self._pass, True)
            return runs
        return [*runs, self._begun([*self._taken(), first])]

    def rest(self) -> list[list[First]]:
        """Return the run of those whose first step is held, as no other has joined them."""
        waiting = self._taken()
        return [self._begun(waiting)] if waiting else []

    def _taken(self) -> list[First]:
        """Take those that wait. Nothing is to be known of backward passes until another one waits."""
        waiting, self._waiting, self._passed = self._waiting, [], False
        backward_passes.wait(self._pass, False)
        return waiting

    def _pass(self) -> None:
        self._passed = True

    def _begun(self, run: list[First]) -> list[First]:
        self._known = [known for known in self._known if known() is not None]
        self._known += [weakref.ref(one) for first in run for one in nested(first.optimizer)]
        return run

    def _inside(self, optimizer: Optimizer) -> bool:
        """Whether a step that is held is under way, and this one is a part of it."""
        held = {id(p) for first in self._waiting for p in parameters(first.optimizer)}
        return any(id(p) in held for p in parameters(optimizer))

    def _others(self, optimizer: Optimizer) -> list[Optimizer]:
        """Optimizers that have not stepped yet and hold parameters that none of these does."""
        taken = [optimizer, *(first.optimizer for first in self._waiting)]
        out = {id(known()) for known in self._known} | set(map(id, taken))
        mine = {id(p) for one in taken for p in parameters(one)}
        # type(), since isinstance() would wake lazy proxies that pretend to be of another class
        there = gc.get_objects() if self._among is None else self._among
        found = []
        for one in [one for one in there if issubclass(type(one), Optimizer) and id(one) not in out]:
            held = {id(p) for p in parameters(one)}
            if held and not held & mine:
                mine |= held
                found.append(one)
        return found
