"""Text and numbers on their way to a reader: text that may come from anybody made harmless, numbers made short."""

from __future__ import annotations

import math


def printable(text: object) -> str:
    r"""Escape what no reader can see: control characters, NUL, marks that reverse the reading direction.

    Letters of every script stay as they are.

    >>> printable("a" + chr(0) + chr(0x202E) + "b")
    'a\\x00\\u202eb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def numeral(value: float | None, digits: int = 4) -> str:
    """As ``number``, with a true minus sign, for print.

    >>> numeral(-1.05)
    '−1.050'
    """
    return number(value, digits).replace("-", "−" if value is not None and value == value else "–")


def percent(share: float | None, digits: int = 1, sign: bool = False) -> str:
    """Show a share in per cent.

    >>> percent(0.123), percent(-0.5, 0, sign=True), percent(None)
    ('12.3 %', '−50 %', '–')
    """
    if share is None or share != share:
        return "–"
    return f"{100 * share + 0.0:{'+' if sign else ''}.{digits}f} %".replace("-", "−")


def abbreviate(text: object, most: int) -> str:
    """Take the middle out of what is longer than ``most`` letters: names of runs differ at either end.

    >>> abbreviate("transformer_rmsprop", 12)
    'transf…sprop'
    """
    plain = printable(text)
    tail = (most - 1) // 2
    return plain if len(plain) <= most else plain[: most - 1 - tail] + "…" + plain[len(plain) - tail :]


def number(value: float | None, digits: int = 4) -> str:
    """Show a number to some significant digits; a dash where there is none.

    >>> number(1.05), number(13.84), number(123456.0), number(0.00123), number(None)
    ('1.050', '13.84', '1.235e+05', '0.001230', '-')
    """
    if value is None or value != value:
        return "-"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 10**digits:
        return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:.{digits - 1}e}"
