"""The eight rows of the paper's table: the command that makes each, and what the paper printed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

PREDICTORS = ("last", "ema(0.9)", "ema(0.99)", "trend")

PRINTED = Path(__file__).with_name("printed.json")
"""The paper's kappas, as ``gradlog compare --reference`` reads them; null where the print cannot be read."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One run.

    Attributes
    ----------
    data : str
        The paper's data where they are published; empty where its task is known by its name alone.
    """

    name: str
    script: str
    flags: tuple[str, ...] = ()
    data: str = ""

    @property
    def paper(self) -> tuple[float, ...]:
        """Kappa of ``PREDICTORS`` as printed in arXiv 2601.04270; NaN where the print cannot be read."""
        printed = json.loads(PRINTED.read_text())["rows"][self.name]
        return tuple(float("nan") if printed[p] is None else printed[p] for p in PREDICTORS)


ROWS = (
    Row("resnet18_adamw", "resnet18", data="CIFAR-100"),
    Row("resnet18_sgdmom", "resnet18", ("--optimizer=sgdmom",), data="CIFAR-100"),
    Row("vit_tiny_adamw", "vit_tiny", data="CIFAR-100"),
    Row("tiny_transformer_adamw", "tiny_transformer"),
    Row("tiny_transformer_rmsprop", "tiny_transformer", ("--optimizer=rmsprop", "--task=sort")),
    Row("mlp_tabular_adamw", "mlp_tabular"),
    Row("mlp_tabular_sgdmom", "mlp_tabular", ("--optimizer=sgdmom",)),
    Row("gpt2_adamw", "gpt2", data="WikiText-2"),
)
