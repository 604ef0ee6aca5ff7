"""What an audit says, and runs whose step numbers are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import gradlog
from gradlog.analysis.audit.findings import Report


def texts(report: Report, check: str, *statuses: str) -> list[str]:
    """Lines of a check with these statuses: default, those that find something."""
    return [x.text for x in report.lines if x.check == check and x.status in (statuses or ("FAIL", "WARN"))]


def numbered(path: Path, steps, **options) -> Path:
    """A run of these steps."""
    with gradlog.open(path, k=8, on_error="raise", like=np.zeros(20), **options) as log:
        for t in steps:
            log.step(np.random.default_rng(t).standard_normal(20), step=t)
    return path
