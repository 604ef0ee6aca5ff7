"""gradlog: log sketched gradients of a training run; measure their predictability and rank afterwards.

The recorder lives here and imports numpy only; ``gradlog.analysis`` and ``gradlog.cli`` are separate and load
when they are used.
"""

from __future__ import annotations

from gradlog._open import attach, open
from gradlog.errors import GradlogError, GradlogWarning
from gradlog.logger import Logger
from gradlog.provenance import fingerprint
from gradlog.recover import Recovered, recover

__all__ = ["GradlogError", "GradlogWarning", "Logger", "Recovered", "attach", "fingerprint", "open", "recover"]
