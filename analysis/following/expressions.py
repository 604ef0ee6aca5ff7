"""What a user wants to be told of, as an expression over the rows of a run: ``norm > 10 * median(200)``.

A small language of its own, read by recursive descent; nothing of it is evaluated as Python. An expression is computed
for many rows at once. Its length, its depth and its windows are bounded, and so is its cost.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64

LONGEST, DEEPEST, WIDEST = 400, 20, 100_000
"""Characters of an expression, operands inside each other, and values of a window."""

STATISTICS = ("median", "mean", "max", "min")

Operation = Callable[[Float64, Float64], Float64]
_COMPARISONS: Mapping[str, Operation] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_SUMS: Mapping[str, Operation] = {"+": operator.add, "-": operator.sub}
_PRODUCTS: Mapping[str, Operation] = {"*": operator.mul, "/": operator.truediv}
_TOKEN = re.compile(
    r'\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d]\w*)|"(?P<quoted>[^"]*)"'
    r"|(?P<sign><=|>=|==|!=|[-+*/()<>,])|(?P<end>$))"
)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Values of some rows that follow each other, and what came before them.

    Attributes
    ----------
    values : dict of str to float64 (rows,)
        By the name of what they are, NaN where it is not known.
    before : dict of str to float64
        Finite values of earlier rows, as many as the widest window needs.
    """

    values: Mapping[str, Float64]
    before: Mapping[str, Float64]

    def statistic(self, kind: str, of: str, window: int) -> Float64:
        """Statistic of the last ``window`` finite values before each row; NaN while there are not so many."""
        import pandas as pd

        finite = np.isfinite(self.values[of])
        known = np.concatenate([self.before.get(of, np.empty(0)), self.values[of][finite]])
        rolled = np.append(getattr(pd.Series(known).rolling(window), kind)().to_numpy(), np.nan)
        return rolled[len(known) - np.count_nonzero(finite) + np.cumsum(finite) - finite - 1]


Node = Callable[[Rows], Float64]


class Expression:
    """A condition on rows.

    Parameters
    ----------
    text : str
        Comparisons, arithmetic, ``and``, ``or``, ``not``, numbers, names, and statistics of the values before a row.

    Attributes
    ----------
    names : set of str
        What it needs of a row: scalars, ``norm`` and the like; ``norm("GROUP")`` for the norm of a group.
    window : int
        Its widest window.

    Raises
    ------
    ValueError
        It is no expression, or larger than what is allowed.

    Examples
    --------
    >>> found = Expression("loss > 2 * median(2)")
    >>> found.true(Rows({"loss": np.array([1.0, 1.0, 1.5, 9.0])}, {})).tolist(), found.names
    ([False, False, False, True], {'loss'})
    """

    def __init__(self, text: str) -> None:
        self.text, self.names, self.window = text, set[str](), 0
        self._terms: dict[str, Node] = {}
        self._compute = _Parser(self).whole()

    def true(self, rows: Rows) -> NDArray[np.bool_]:
        """Tell for each row whether the condition holds: not where it hangs on a value that is not known."""
        with np.errstate(all="ignore"):
            return _truth(self._compute(rows))

    def told(self, rows: Rows, row: int) -> dict[str, float]:
        """Names and statistics with their values in one row."""
        return {text: float(node(rows)[row]) for text, node in self._terms.items()}

    def value(self, name: str) -> Node:
        """Return what gives the values of something that rows have."""
        self.names.add(name)
        return self._terms.setdefault(name, lambda rows: rows.values[name])

    def statistic(self, kind: str, of: str, window: int) -> Node:
        """Return what gives a statistic of the values before each row."""
        self.value(of)
        self.window = max(self.window, window)
        return self._terms.setdefault(f"{kind}({of}, {window})", lambda rows: rows.statistic(kind, of, window))


class _Scope:
    """What is compared: its first name is what statistics without a name are of."""

    def __init__(self) -> None:
        self.subject = ""
        self.waiting: list[Callable[[str], None]] = []


class _Parser:
    """Reads an expression from left to right; each method returns the node of what it has read."""

    def __init__(self, expression: Expression) -> None:
        self._expression, self._text = expression, expression.text
        if len(self._text) > LONGEST:
            raise ValueError(f"expected at most {LONGEST} characters, got {len(self._text)}")
        self._start = self._place = self._depth = 0
        self._scope = _Scope()
        self._read()

    def whole(self) -> Node:
        node = self._any()
        if self._kind != "end":
            self._fail("an operator or the end")
        if self._scope.waiting or not self._expression.names:
            raise ValueError(f"expected the name of what is compared, such as norm or loss, in {self._text!r}")
        return node

    def _read(self) -> None:
        match = _TOKEN.match(self._text, self._place)
        self._start = self._place
        if match is None or match.lastgroup is None:
            self._fail("numbers, names and operators")
        self._place, self._kind, self._token = match.end(), match.lastgroup, match[match.lastgroup]

    def _fail(self, expected: str) -> NoReturn:
        raise ValueError(f"expected {expected}, got {self._text[self._start :].strip() or 'the end'!r}")

    def _take(self, *tokens: str) -> str:
        """Read past one of these and return it; empty where something else stands there."""
        token = self._token if self._kind in ("sign", "name") else ""
        if token not in tokens:
            return ""
        self._read()
        return token

    def _expect(self, token: str) -> None:
        if not self._take(token):
            self._fail(repr(token))

    def _any(self) -> Node:
        node = self._all()
        while self._take("or"):
            node = _both(np.logical_or, node, self._all())
        return node

    def _all(self) -> Node:
        node = self._negated()
        while self._take("and"):
            node = _both(np.logical_and, node, self._negated())
        return node

    def _negated(self) -> Node:
        if not self._take("not"):
            return self._comparison()
        node = self._deeper(self._negated)
        return lambda rows: np.where(np.isnan(x := node(rows)), np.nan, x == 0)

    def _comparison(self) -> Node:
        outer, self._scope = self._scope, _Scope()
        node = self._chain(self._product, _SUMS)
        if sign := self._take(*_COMPARISONS):
            node = _compared(_COMPARISONS[sign], node, self._chain(self._product, _SUMS))
        inner, self._scope = self._scope, outer
        outer.subject = outer.subject or inner.subject
        if inner.subject:
            for wait in inner.waiting:
                wait(inner.subject)
        else:
            outer.waiting += inner.waiting
        return node

    def _product(self) -> Node:
        return self._chain(self._operand, _PRODUCTS)

    def _chain(self, read: Callable[[], Node], operations: Mapping[str, Operation]) -> Node:
        node = read()
        while sign := self._take(*operations):
            node = _applied(operations[sign], node, read())
        return node

    def _operand(self) -> Node:
        if self._take("-"):
            return _applied(operator.sub, lambda rows: np.zeros(()), self._deeper(self._operand))
        if self._take("("):
            node = self._deeper(self._any)
            self._expect(")")
            return node
        kind, token = self._kind, self._token
        if kind == "number":
            number = np.array(self._number(math.inf, float))
            return lambda rows: number
        if kind == "name" and token in STATISTICS:
            self._read()
            return self._statistic(token)
        return self._expression.value(self._name())

    def _deeper(self, read: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError(f"expected at most {DEEPEST} parentheses and signs inside each other")
        node = read()
        self._depth -= 1
        return node

    def _number(self, most: float, kind: type[float]) -> float:
        try:
            number = kind(self._token) if self._kind == "number" else math.nan
        except ValueError:
            number = math.nan
        if not (0 if kind is float else 1) <= number <= most or math.isinf(number):
            self._fail("a number" if kind is float else f"a whole number from 1 to {most:,}")
        self._read()
        return number

    def _name(self) -> str:
        """Name of something that rows have: plain, in quotes where it is no word, or the norm of a group."""
        kind, token = self._kind, self._token
        if kind not in ("name", "quoted") or not token or (kind == "name" and token in ("and", "or", "not")):
            self._fail("a name, a number or '('")
        self._read()
        if kind == "name" and token == "norm" and self._take("("):
            if self._kind not in ("name", "quoted"):
                self._fail("the name of a group")
            token = f'norm("{self._token}")'
            self._read()
            self._expect(")")
        self._scope.subject = self._scope.subject or token
        return token

    def _statistic(self, kind: str) -> Node:
        self._expect("(")
        of = "" if self._kind == "number" else self._name()
        if of:
            self._expect(",")
        window = int(self._number(WIDEST, int))
        self._expect(")")
        if of:
            return self._expression.statistic(kind, of, window)
        found: list[Node] = []
        self._scope.waiting.append(lambda subject: found.append(self._expression.statistic(kind, subject, window)))
        return lambda rows: found[0](rows)


def _truth(x: Float64) -> NDArray[np.bool_]:
    return np.asarray((x != 0) & ~np.isnan(x))


def _both(operation: Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.bool_]], a: Node, b: Node) -> Node:
    return lambda rows: operation(_truth(a(rows)), _truth(b(rows))).astype(float)


def _applied(operation: Operation, a: Node, b: Node) -> Node:
    return lambda rows: operation(a(rows), b(rows))


def _compared(operation: Operation, a: Node, b: Node) -> Node:
    def compare(rows: Rows) -> Float64:
        left, right = a(rows), b(rows)
        holds: Float64 = np.where(np.isnan(left) | np.isnan(right), np.nan, operation(left, right))
        return holds

    return compare
