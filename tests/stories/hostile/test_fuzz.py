"""Every verb on hundreds of strangers' stores; .ci/run makes thousands with `python tests/stories/hostile/fuzz.py`."""

from __future__ import annotations

import pytest

from tests.stories.hostile import fuzz


@pytest.mark.slow
def test_hundreds_of_calls_end_in_a_line_each() -> None:
    counted, faults = fuzz.run(calls=150, seed=1, workers=1)
    assert faults == [], "\n".join(f"--- call {number}: {text}" for number, text in faults)
    assert counted.total() == 150
    assert {verb for verb, _ in counted} == set(fuzz.WEIGHTS)


def test_some_calls_end_in_a_line_each() -> None:
    _, faults = fuzz.run(calls=30, seed=2, workers=1)
    assert faults == [], "\n".join(f"--- call {number}: {text}" for number, text in faults)
