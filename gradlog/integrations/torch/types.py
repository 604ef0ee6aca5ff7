"""Names of types that the hooks share. mypy does not follow torch (see pyproject.toml); other type checkers do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Tensors = list[torch.Tensor]
Gradients = list[torch.Tensor | None]
Named = list[tuple[str, torch.Tensor]]
"""Parameters with their names."""

Number = torch.Tensor | float
"""A number, or a tensor of one that may still be on its way."""

Floats = NDArray[np.float32] | NDArray[np.float64]

Args = tuple[object, ...]
Kwargs = dict[str, object]
"""What ``step`` was called with; ``Args[0]`` is the optimizer."""

Instead = tuple[Args, Kwargs] | None
"""Other arguments for a step, from a hook before it."""

Function = Callable[..., object]

Group = dict[str, Any]
"""A parameter group as torch has it: parameters under ``params``, and settings of any type."""


Models: TypeAlias = "torch.nn.Module | Mapping[str, torch.nn.Module] | None"
"""A module, or several by what goes before the names of their parameters."""


class Optimizer(Protocol):
    """torch's optimizers, and wrappers that hold one and step as it does."""

    @property
    def param_groups(self) -> list[Group]:
        """Parameters and their settings."""

    @property
    def step(self) -> Function:
        """Take a step."""
