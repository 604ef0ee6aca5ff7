"""Runs of trackio: its own package writes them to the folder that ``TRACKIO_DIR`` names."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout

from gradlog.analysis.reading.run import Run
from gradlog.analysis.trackers.curves import OVERVIEW, Results
from gradlog.analysis.trackers.destination import PROJECT, Destination, Tracker, package


class Trackio(Tracker):
    """A new run, or an addition to an earlier one of the same name."""

    def __init__(self, to: Destination, run: Run) -> None:
        super().__init__(to, run)
        to.refuse("trackio", place="set the environment variable TRACKIO_DIR to its folder")
        with redirect_stdout(sys.stderr):
            self.trackio = package("trackio")

    def write(self, results: Results) -> str:
        """See the class above."""
        project, name = self.to.project or PROJECT, self.to.into or results.name
        with redirect_stdout(sys.stderr):  # it greets, and standard output is for results
            run = self.trackio.init(
                project=project, name=name, resume="allow" if self.to.into else "never", embed=False,
                auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
            for step, numbers in results.by_step.items():
                run.log(numbers, step=step)
            run.log({OVERVIEW: self.trackio.Image(results.picture)}, step=results.last_step)
            self.trackio.finish()
        return f"project {project}, run {run.name}"


of = Trackio
