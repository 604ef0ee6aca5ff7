"""The modules of a running script that hold an optimizer's parameters, and what the script calls them."""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Mapping, Sequence

import torch

from gradlog.errors import GradientError
from gradlog.integrations.torch.optimizers.optimizer import parameters
from gradlog.integrations.torch.types import Named, Tensors


def modules_of(*optimizers: torch.optim.Optimizer) -> dict[str, torch.nn.Module]:
    """Find modules that together hold the optimizers' parameters.

    First the one that holds most of them, then the one that holds most of the rest, and so on. Of several that hold
    the same ones it is the outermost: the model that a callback or ``attach`` is given, and not a part of it.

    Returns
    -------
    dict of str to Module
        By what goes before their parameters' names: nothing where one module holds all, else the variable or
        attribute that holds the module, or its class and a number where there is none.
    """
    params = [p for one in optimizers for p in parameters(one)]
    rest = set(map(id, params))
    # type(), since isinstance() would wake lazy proxies that pretend to be of another class
    modules = [m for m in gc.get_objects() if issubclass(type(m), torch.nn.Module)]
    held = [(m, ids) for m in modules if (ids := rest & {id(p) for p in m.parameters()})]
    found: list[torch.nn.Module] = []
    while held:
        best, ids = max(held, key=lambda one: (len(one[1]), sum(1 for _ in one[0].modules())))
        found.append(best)
        rest -= ids
        held = [(m, left) for m, own in held if (left := own & rest)]
    if len(found) < 2:
        return dict.fromkeys([""], found[0]) if found else {}
    first = {id(p): i for i, p in enumerate(params)}
    found.sort(key=lambda m: min(first.get(id(p), len(first)) for p in m.parameters()))
    return _named(found)


def _named(modules: list[torch.nn.Module]) -> dict[str, torch.nn.Module]:
    called = _called(modules)
    named: dict[str, torch.nn.Module] = {}
    for i, module in enumerate(modules):
        name = called.get(id(module), "")
        named[name if name and name not in named else f"{type(module).__name__}{i}"] = module
    return named


def _called(modules: list[torch.nn.Module]) -> dict[int, str]:
    """Names of modules by id: variables of the functions that run now, the outermost first, or attributes of theirs."""
    scopes: list[Mapping[str, object]] = [vars(sys.modules["__main__"])]
    frame: types.FrameType | None = sys._getframe()
    inner = []
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("gradlog", "torch"):
            inner.append(frame.f_locals)
        frame = frame.f_back
    scopes += reversed(inner)
    holders = [value for scope in scopes for value in list(scope.values()) if not isinstance(value, type)]
    scopes += [held for holder in holders if isinstance(held := getattr(holder, "__dict__", None), dict)]
    wanted, found = {id(m) for m in modules}, dict[int, str]()
    for scope in scopes:
        for name, value in list(scope.items()):
            if id(value) in wanted:
                found.setdefault(id(value), str(name))
    return found


def replaced(names: Sequence[str], params: Tensors, new: Named) -> tuple[Tensors, Named]:
    """Let parameters follow others of their name, as after a layer was made anew; return these and the rest.

    Raises
    ------
    GradientError
        One has another shape.
    """
    place, params = {name: i for i, name in enumerate(names)}, params[:]
    for name, p in new:
        if name in place:
            if p.shape != params[place[name]].shape:
                raise GradientError(
                    f"{name}: expected a parameter of shape {tuple(params[place[name]].shape)}, got one of "
                    f"{tuple(p.shape)} in its place; close() this logger and attach a new path to record it"
                )
            params[place[name]] = p
    return params, [(name, p) for name, p in new if name not in place]
