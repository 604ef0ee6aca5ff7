"""One palette for pages and plots: Okabe and Ito (2008), told apart with any colour vision, tuned for each ground."""

from __future__ import annotations

SERIES_LIGHT = ("#0072b2", "#c44e00", "#00805d", "#a8568b", "#8a6d00", "#2b8fc9", "#6b6b6b")
SERIES_DARK = ("#5fb2e6", "#f08a4b", "#3fc39a", "#e08fc0", "#e6b93d", "#9bd4f5", "#a8a8a8")

LIGHT = {
    "ground": "#fcfcfb",
    "surface": "#ffffff",
    "ink": "#1c1f23",
    "soft": "#5a626b",
    "hair": "#e3e5e8",
    "grid": "#eceef0",
    "accent": "#0072b2",
    "good": "#00694c",
    "bad": "#a63f00",
    "warn": "#fff6e0",
    **{f"s{i}": c for i, c in enumerate(SERIES_LIGHT)},
}
DARK = {
    "ground": "#14171a",
    "surface": "#1b1f23",
    "ink": "#e8eaed",
    "soft": "#a0a8b1",
    "hair": "#30363c",
    "grid": "#272c31",
    "accent": "#5fb2e6",
    "good": "#54cfa6",
    "bad": "#f29a66",
    "warn": "#322a17",
    **{f"s{i}": c for i, c in enumerate(SERIES_DARK)},
}


def properties(palette: dict[str, str]) -> str:
    """CSS custom properties of a palette.

    >>> properties({"ink": "#000000"})
    '--ink:#000000;'
    """
    return "".join(f"--{name}:{value};" for name, value in palette.items())
