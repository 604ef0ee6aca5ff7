"""Writes the results of an analysis into the tracker where the loss already is; a file for each tracker."""

from typing import Literal

Name = Literal["tensorboard", "wandb", "mlflow", "trackio"]
TRACKERS: tuple[Name, ...] = ("tensorboard", "wandb", "mlflow", "trackio")
