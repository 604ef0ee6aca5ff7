"""Sizes as people write them."""

from __future__ import annotations

import re


def parse_size(text: str | int | float) -> int:
    """Bytes of a size such as 2G, 500MB or 1.5 GiB.

    Examples
    --------
    >>> parse_size("2G"), parse_size("512 KiB")
    (2147483648, 524288)
    """
    if isinstance(text, int | float):
        return int(text)
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)(i?b)?\s*", text, re.IGNORECASE)
    if not match:
        raise ValueError(f"expected a size such as 2G or 500M, got {text!r}")
    return int(float(match[1]) * 1024 ** "_kmgt".index(match[2].lower() or "_"))
