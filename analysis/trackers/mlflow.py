"""Runs of MLflow: its own client writes them to whatever the tracking URI names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from gradlog.analysis.common.text import numbered
from gradlog.analysis.reading.run import Run
from gradlog.analysis.trackers.curves import Results
from gradlog.analysis.trackers.destination import PROJECT, Destination, Tracker, package
from gradlog.errors import StoreUnavailableError

LONGEST = 200
"""Letters of a metric's name; 250 are allowed."""
BATCH = 1000
"""Metrics that one request takes."""

Mine = Any
"""Objects of mlflow, which is not installed where types are checked."""


class MLflow(Tracker):
    """A new run, or an addition to an earlier one."""

    def __init__(self, to: Destination, run: Run) -> None:
        super().__init__(to, run)
        self.mlflow = package("mlflow")

    def write(self, results: Results) -> str:
        """See the class above."""
        try:
            client = self.mlflow.MlflowClient(self.to.place)
            run = client.get_run(self.to.into) if self.to.into else self._new(client, results.name)
            identity = str(run.info.run_id)
            metrics = self._metrics(results)
            for start in range(0, len(metrics), BATCH):
                client.log_batch(identity, metrics=metrics[start : start + BATCH])
            client.log_artifact(identity, str(results.picture), "gradlog")
            if not self.to.into:
                client.set_terminated(identity)
        except self.mlflow.MlflowException as error:
            raise StoreUnavailableError(f"mlflow: {str(error).partition(chr(10))[0]}") from error
        return f"{self.to.place or self.mlflow.get_tracking_uri()}: run {identity}"

    def _new(self, client: Mine, name: str) -> Mine:
        project = self.to.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else client.create_experiment(project)
        return client.create_run(experiment, run_name=name)

    def _metrics(self, results: Results) -> list[Mine]:
        names, began = metric_names(curve.tag for curve in results.curves), int(1000 * results.created)
        return [
            self.mlflow.entities.Metric(names[curve.tag], value, began, step)
            for curve in results.curves
            for step, value in curve.points
        ]


of = MLflow


def metric_names(tags: Iterable[str]) -> dict[str, str]:
    """Names that MLflow takes (letters, digits, ``_ - . :``, spaces and slashes), each once.

    >>> list(metric_names(["gradlog/kappa/ema(0.9)/value", "norm/a|b", "norm/a+b", "norm/.."]).values())
    ['gradlog/kappa/ema_0.9_/value', 'norm/a_b', 'norm/a_b_2', 'norm/_']
    """
    found: dict[str, str] = {}
    used: set[str] = set()
    for tag in tags:
        parts = [re.sub(r"[^\w.\- :]", "_", part) for part in tag.split("/")]
        plain = "/".join("_" if part.strip(". ") == "" else part for part in parts)[:LONGEST]
        found[tag] = numbered(plain, used)
    return found
