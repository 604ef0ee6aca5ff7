"""From the sums of a pass to the spectrum of a scope: one route per file, all with the interface of ``base.Route``."""

from __future__ import annotations

from typing import Literal

from gradlog.analysis.spectrum.routes.base import BLOCK, GROUP_WIDTH, Route, Sums
from gradlog.analysis.spectrum.routes.gram import Gram
from gradlog.analysis.spectrum.routes.nystrom import Nystrom
from gradlog.analysis.spectrum.routes.rows import RowGram

__all__ = ["BLOCK", "GROUP_WIDTH", "ROUTES", "Method", "Route", "Sums", "choose"]

Method = Literal["auto", "gram", "rows", "nystrom"]

ROUTES: dict[str, type[Route]] = {route.method: route for route in (Gram, RowGram, Nystrom)}


def choose(svd: str, rows: int, groups: int, k: int) -> Route:
    """Route to the spectrum of rows x (groups x k) increments: the one that was asked for, or the cheapest.

    Raises
    ------
    ValueError
        Unknown method.
    """
    if svd in ROUTES:
        return ROUTES[svd](groups, k)
    if svd != "auto":
        raise ValueError(f"svd must be 'auto', 'gram', 'rows' or 'nystrom', got {svd!r}")
    return next(route(groups, k, why) for route in ROUTES.values() if (why := route.suits(rows, groups * k)))
