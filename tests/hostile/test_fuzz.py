"""Every verb on thousands of strangers' stores; `python tests/hostile/fuzz.py --help` tells how to make more."""

from __future__ import annotations

import pytest

from tests.hostile import fuzz


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_calls_end_in_a_line_each() -> None:
    counted, faults = fuzz.run(calls=2000, seed=1, workers=2)
    assert faults == [], "\n".join(f"--- call {number}: {text}" for number, text in faults)
    assert counted.total() == 2000
    assert {verb for verb, _ in counted} == set(fuzz.WEIGHTS)


def test_some_calls_end_in_a_line_each() -> None:
    _, faults = fuzz.run(calls=40, seed=2, workers=1)
    assert faults == [], "\n".join(f"--- call {number}: {text}" for number, text in faults)
