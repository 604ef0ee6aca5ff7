"""The eight rows of the paper's table: the command that makes each, and what the paper printed."""

from __future__ import annotations

import dataclasses

PREDICTORS = ("last", "ema(0.9)", "ema(0.99)", "trend")


@dataclasses.dataclass(frozen=True)
class Row:
    """One run.

    Attributes
    ----------
    paper : tuple of float
        Kappa of ``PREDICTORS`` as printed in arXiv 2601.04270; NaN where the print cannot be read.
    data : str
        The paper's data where they are published; empty where its task is known by its name alone.
    """

    name: str
    script: str
    flags: tuple[str, ...]
    paper: tuple[float, float, float, float]
    data: str = ""


ROWS = (
    Row("resnet18_adamw", "resnet18", (), (1.878, 1.058, 1.007, 5.448), "CIFAR-100"),
    Row("resnet18_sgdmom", "resnet18", ("--optimizer=sgdmom",), (1.932, 1.061, 1.006, 5.463), "CIFAR-100"),
    Row("vit_tiny_adamw", "vit_tiny", (), (1.711, 1.017, float("nan"), 4.957), "CIFAR-100"),
    Row("tiny_transformer_adamw", "tiny_transformer", (), (1.340, 1.074, 1.008, 3.395)),
    Row(
        "tiny_transformer_rmsprop",
        "tiny_transformer",
        ("--optimizer=rmsprop", "--task=sort"),
        (3.157, 1.099, 1.009, 11.171),
    ),
    Row("mlp_tabular_adamw", "mlp_tabular", (), (1.713, 0.975, 0.974, 5.056)),
    Row("mlp_tabular_sgdmom", "mlp_tabular", ("--optimizer=sgdmom",), (1.540, 1.054, 1.007, 4.358)),
    Row("gpt2_adamw", "gpt2", (), (1.984, 1.050, 1.000, 5.927), "WikiText-2"),
)
