"""Runs of Weights & Biases: its own package writes them, online or offline as its settings say."""

from __future__ import annotations

import os

from gradlog.analysis.reading.run import Run
from gradlog.analysis.trackers.curves import OVERVIEW, Results
from gradlog.analysis.trackers.destination import PROJECT, Destination, Tracker, package
from gradlog.errors import StoreUnavailableError

STEP = "gradlog/step"
"""Axis of the curves. The run's own counter only goes forwards, and a run that has ended has passed these steps."""


class WandB(Tracker):
    """A new run, or an addition to an earlier one."""

    def __init__(self, to: Destination, run: Run) -> None:
        super().__init__(to, run)
        self.wandb = package("wandb")

    def write(self, results: Results) -> str:
        """See the class above."""
        # what the training's own run tells of this machine, a second one need not
        quiet = self.wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
        try:
            run = self.wandb.init(
                project=self.to.project or os.environ.get("WANDB_PROJECT") or PROJECT, dir=self.to.place,
                id=self.to.into, resume="allow" if self.to.into else None, reinit="create_new",
                name=None if self.to.into else results.name, settings=quiet,
            )  # fmt: skip
        except self.wandb.Error as error:
            message = f"wandb: no run could be opened ({error}); log in, or set WANDB_MODE=offline"
            raise StoreUnavailableError(message.replace("\n", " ")) from error
        run.define_metric(STEP, hidden=True)
        run.define_metric("gradlog/*", step_metric=STEP)
        for step, numbers in results.by_step.items():
            run.log({STEP: step, **numbers})
        run.log({STEP: results.last_step, OVERVIEW: self.wandb.Image(str(results.picture))})
        run.finish()
        return str(run.dir.removesuffix("/files") if run.offline else run.url)


of = WandB
