"""Where one segment continues another."""

from __future__ import annotations

from pathlib import Path

from gradlog.analysis import audit_run
from tests.helpers import forger
from tests.helpers.audits import texts
from tests.helpers.forger import Rows


def test_a_join_where_the_gradient_jumps(resumed: Path) -> None:
    assert texts(audit_run(resumed), "joins", "PASS")

    def jump(first: Rows, second: Rows) -> None:
        second.sketch *= 100
        second.norm2 *= 1e4

    forger.edit(resumed, jump)
    assert "the gradient's norm changes" in texts(audit_run(resumed), "joins", "WARN")[0]
