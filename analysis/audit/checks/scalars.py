"""Whether the logged numbers fit each other: norms, clip coefficients and learning rates.

Names as the integrations write them: ``lr``, ``clip_norm`` (the norm before clipping) and ``clip_coef``; and
``grad_norm`` or ``total_norm``, which training loops log themselves, before clipping or after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.audit.findings import Line, problems
from gradlog.analysis.audit.reader import Evidence, Floats
from gradlog.analysis.common.text import enumerate_some
from gradlog.format.header import SKIPPED, RunHeader

TOLERANCE = 2e-3
"""Relative. Frameworks take norms in float32, or in the type of the gradient."""

_OWN_NAMES = ("grad_norm", "total_norm", "gradient_norm")


def scalars(header: RunHeader, evidence: Sequence[Evidence]) -> Iterator[Line]:
    """Compare the scalars of each row with the row and with each other."""
    texts, compared = [], set()
    for e in evidence:
        usable = e.finite & ((e.flags & SKIPPED) == 0)
        for name, values in e.scalars.items():
            if re.fullmatch(r"lr(/\d+)?", name):
                compared.add(name)
                texts += _say(e, np.isfinite(values) & (values < 0), f"{name} is negative")
                texts += _say(e, np.isinf(values), f"{name} is infinite")
        clip = e.scalars.get("clip_coef")
        if clip is not None:
            compared.add("clip_coef")
            texts += _say(e, (clip < 0) | (clip > 1 + 1e-6), "clip_coef is not within 0 and 1")
        if header.what == "gradient":
            for name in ("clip_norm", *_OWN_NAMES):
                if name in e.scalars:
                    compared.add(name)
                    texts += _norm(header, e, usable, name, clip)
    if not compared:
        yield Line("SKIP", "scalars", "no learning rate, clip coefficient or norm was logged")
        return
    yield from problems("scalars", texts, f"consistent: {', '.join(sorted(compared))}", "WARN")


def _norm(header: RunHeader, e: Evidence, usable: NDArray[np.bool_], name: str, clip: Floats | None) -> list[str]:
    """Compare a logged norm with that of the rows, which have one writer of the whole gradient each."""
    logged, own = e.scalars[name], e.total_norm()
    expected = [logged]
    if clip is not None and header.stage != "preclip":
        expected = [logged * clip] if name == "clip_norm" else [logged, logged * clip]
    with np.errstate(all="ignore"):
        off = [np.abs(own - x) > TOLERANCE * np.maximum(own, np.abs(x)) for x in expected]
    wrong = np.all(off, axis=0) & usable & np.isfinite(logged)
    return _say(e, wrong, f"{name} is not the norm of the recorded gradient") if header.stage != "local" else []


def _say(e: Evidence, wrong: NDArray[np.bool_], what: str) -> list[str]:
    return [f"{e.name}: {what} at steps {enumerate_some(e.steps[wrong].tolist())}"] if wrong.any() else []
