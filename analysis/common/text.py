"""Text and numbers on their way to a reader: text that may come from anybody made harmless, numbers made short."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import PurePath


def printable(text: object) -> str:
    r"""Escape what no reader can see: control characters, NUL, marks that reverse the reading direction.

    Letters of every script stay as they are.

    >>> printable("a" + chr(0) + chr(0x202E) + "b")
    'a\\x00\\u202eb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def abbreviate(text: object, most: int) -> str:
    """Take the middle out of what is longer than ``most`` letters: names of runs differ at either end.

    >>> abbreviate("transformer_rmsprop", 12)
    'transf…sprop'
    """
    plain = printable(text)
    tail = (most - 1) // 2
    return plain if len(plain) <= most else plain[: most - 1 - tail] + "…" + plain[len(plain) - tail :]


@dataclasses.dataclass(frozen=True)
class Style:
    """How values look to a reader: one method for each kind of value.

    ``none`` stands for a number that is not known, ``minus`` before a negative one, ``to`` between two ends.

    >>> TERMINAL.interval(0.5, 1.05), PAGE.interval(-1.05, None), PAGE.percent(-0.5, 0, sign=True)
    ('0.5000 .. 1.050', '−1.050 or more', '−50 %')
    """

    none: str
    minus: str
    to: str

    def number(self, value: float | None, digits: int = 4) -> str:
        """Show a number to some significant digits.

        >>> [TERMINAL.number(x) for x in (1.05, 13.84, 123456.0, 0.00123, None)]
        ['1.050', '13.84', '1.235e+05', '0.001230', '-']
        """
        if value is None or value != value:
            return self.none
        if value == 0:
            return "0"
        if 1e-3 <= abs(value) < 10**digits:
            return self._written(value, f".{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f")
        return self._written(value, f".{digits - 1}e")

    def fixed(self, value: float | None, places: int = 3, sign: bool = False) -> str:
        """Show a kappa, or with its sign a gain, to some decimal places."""
        return self._written(value, f"{'+' if sign else ''}.{places}f", round(value or 0.0, places) + 0.0)

    def percent(self, share: float | None, digits: int = 1, sign: bool = False) -> str:
        """Show a share in per cent.

        >>> PAGE.percent(0.123), TERMINAL.percent(None)
        ('12.3 %', '-')
        """
        text = self._written(share, f"{'+' if sign else ''}.{digits}f", 100 * (share or 0.0) + 0.0)
        return text if text == self.none else f"{text} %"

    def count(self, value: float | None) -> str:
        """Show a whole number, such as a rank."""
        return self._written(value, ",.0f")

    def half(self, half: float | None) -> str:
        """Show the half-width of an interval."""
        return self.none if half is None else f"± {self.number(half, 3)}"

    def interval(self, low: float | None, high: float | None, show: Callable[[float], str] | None = None) -> str:
        """Show both ends; nothing where there is no interval."""
        show = show or self.number
        if low is None or not math.isfinite(low):
            return ""
        return (
            f"{show(low)} or more" if high is None or not math.isfinite(high) else f"{show(low)}{self.to}{show(high)}"
        )

    def of_error(self, low: float | None, high: float | None, show: Callable[[float], str] | None = None) -> str:
        """Show the interval of an error, or that there is no error, or no interval."""
        if low is None or high is None:
            return "none"
        return "exact" if low == high else self.interval(low, high, show)

    def rank(self, low: float | None, high: float | None) -> str:
        """Show the range in which a rank is certain to lie; one number where it is known."""
        return self.count(low) if low is None or low == high else self.interval(low, high, self.count)

    def _written(self, value: float | None, form: str, shown: float | None = None) -> str:
        if value is None or value != value:
            return self.none
        return format(value if shown is None else shown, form).replace("-", self.minus)


TERMINAL, PAGE = Style("-", "-", " .. "), Style("–", "−", " to ")
SENTENCE = Style("-", "-", " to ")
"""Within a sentence on the terminal."""


def writable(text: str) -> str:
    r"""Escape what files of other tools cannot hold: NUL, and halves of surrogate pairs, which JSON may name.

    >>> writable("a" + chr(0xD800))
    'a\\ud800'
    """
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def no_formula(value: object) -> object:
    """Put an apostrophe before text that a spreadsheet would take for a formula.

    >>> no_formula("=1+1"), no_formula("loss"), no_formula(-1)
    ("'=1+1", 'loss', -1)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def stem(path: str) -> str:
    """Name of a run without its endings.

    >>> stem("logs/adamw.zarr/"), stem("adamw.zarr.zip")
    ('adamw', 'adamw')
    """
    return PurePath(path.rstrip("/")).name.removesuffix(".zip").removesuffix(".zarr")


LONGEST_NAME = 60
"""Letters of a name in a file: file systems stop at 255 bytes, and a letter takes up to four."""


def portable_names(names: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Names under which columns can stand in netCDF, zarr and npz, by their own names.

    Letters of every script, digits and ``_ . + - @`` stay; anything else, a slash above all, becomes ``_``. A name that
    is taken, empty or begins with something else than a letter or a digit gets ``scalar_`` in front. What still
    collides is numbered.

    >>> portable_names(["loss", "lr/1", "lr_1", "step", ".."], taken={"step"})
    {'loss': 'loss', 'lr/1': 'lr_1', 'lr_1': 'lr_1_2', 'step': 'scalar_step', '..': 'scalar_..'}
    """
    found: dict[str, str] = {}
    used = set(taken)
    for name in names:
        plain = re.sub(r"[^\w.+@-]", "_", name)[:LONGEST_NAME]
        if plain in taken or not re.match(r"[^\W_]", plain):
            plain = f"scalar_{plain}"
        found[name] = numbered(plain, used)
    return found


def numbered(name: str, used: set[str]) -> str:
    """Append a number to a name that is used already; the result is used from then on.

    >>> used = {"lr"}
    >>> numbered("lr", used), numbered("lr", used), numbered("loss", used)
    ('lr_2', 'lr_3', 'loss')
    """
    candidate, number = name, 1
    while candidate in used:
        number += 1
        candidate = f"{name}_{number}"
    used.add(candidate)
    return candidate


def enumerate_some(values: Sequence[object], most: int = 8) -> str:
    """List the first values and count the others.

    >>> enumerate_some(range(12), 3)
    '0, 1, 2 and 9 more'
    """
    rest = len(values) - most
    return ", ".join(str(v) for v in values[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does; empty for none.

    >>> listed(["last"]), listed(["last", "trend", "ar(8)"])
    ('last', 'last, trend and ar(8)')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def counted(number: int, noun: str) -> str:
    """Say how many there are of something.

    >>> counted(1, "run"), counted(2000, "step")
    ('1 run', '2,000 steps')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
