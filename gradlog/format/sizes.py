"""Sizes as people write them."""

from __future__ import annotations

import os
import re

from gradlog.errors import UnusableInputError


def parse_size(text: str | int | float) -> int:
    """Bytes of a size such as 2G, 500MB or 1.5 GiB.

    Raises
    ------
    UnusableInputError
        It is none.

    Examples
    --------
    >>> parse_size("2G"), parse_size("512 KiB")
    (2147483648, 524288)
    """
    if isinstance(text, int | float):
        return int(text)
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)(i?b)?\s*", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise UnusableInputError(f"expected a size such as 2G or 500M, got {text[:80]!r}")
    return int(float(match[1]) * 1024 ** "_kmgt".index(match[2].lower() or "_"))


def size_setting(variable: str, default: str | int) -> int:
    """Bytes that an environment variable asks for, or the default where it is not set.

    Raises
    ------
    UnusableInputError
        It is set to something else.
    """
    try:
        return parse_size(os.environ.get(variable) or default)
    except UnusableInputError as error:
        raise UnusableInputError(f"{variable}: {error}") from error
