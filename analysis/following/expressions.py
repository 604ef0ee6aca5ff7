"""What a user wants to be told of, as an expression over the rows of a run: ``norm > 10 * median(200)``.

A small language of its own. Python's parser makes a tree of it, and nothing is evaluated as Python: what is not known
here is refused. An expression is computed for many rows at once. Its length, its depth and its windows are bounded, and
so is its cost.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import math
import operator
import re
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64

LONGEST, DEEPEST, WIDEST = 400, 64, 100_000
"""Characters of an expression, operations inside each other, and values of a window."""

Operation = Callable[[Float64, Float64], Float64]
_COMPARISONS: Mapping[type[ast.cmpop], Operation] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
_ARITHMETIC: Mapping[type[ast.operator], Operation] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r'|(?P<group>norm\s*\(\s*(?:"(?P<of>[^"]*)"|(?P<word>[^\W\d]\w*))\s*\))'
    r"|(?P<plain>(?:and|or|not)\b|(?:median|mean|max|min)\s*\(|<=|>=|==|!=|[-+*/)<>,])|(?P<open>\()"
    r'|(?P<name>(?!(?:median|mean|max|min)\b)[^\W\d]\w*)|"(?P<quoted>[^"]+)"|\Z)'
)
_EXPECTED = "expected comparisons of names and numbers, such as norm > 10 * median(200), got"


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
        self._compute = self._condition(_tree(text), "")
        if not self.names:
            raise ValueError(f"expected the name of what is compared, such as norm or loss, in {text!r}")

    def true(self, rows: Rows) -> NDArray[np.bool_]:
        """Tell for each row whether the condition holds: not where it hangs on a value that is not known."""
        with np.errstate(all="ignore"):
            return _truth(self._compute(rows))

    def told(self, rows: Rows, row: int) -> dict[str, float]:
        """Names and statistics with their values in one row."""
        return {text: float(node(rows)[row]) for text, node in self._terms.items()}

    def _condition(self, tree: ast.expr, outer: str) -> Node:
        """Node of what is compared: statistics in it are of its first name, or of the ``outer`` one if it has none."""
        match tree:
            case ast.BoolOp(op, values):
                join = np.logical_or if isinstance(op, ast.Or) else np.logical_and
                nodes = [self._condition(value, outer) for value in values]
                return lambda rows: functools.reduce(join, [_truth(node(rows)) for node in nodes]).astype(float)
            case ast.UnaryOp(ast.Not(), operand):
                node = self._condition(operand, outer)
                return lambda rows: np.where(np.isnan(x := node(rows)), np.nan, x == 0)
        subject = _first_name(tree) or outer
        if isinstance(tree, ast.Compare) and len(tree.ops) == 1:
            sides = self._value(tree.left, subject), self._value(tree.comparators[0], subject)
            return _compared(_COMPARISONS[type(tree.ops[0])], *sides)
        return self._value(tree, subject)

    def _value(self, tree: ast.expr, subject: str) -> Node:
        match tree:
            case ast.Constant(value=int() | float() as number):
                constant = np.array(float(number))
                return lambda rows: constant
            case ast.Subscript(slice=ast.Constant(value=str() as name)):
                return self._named(name)
            case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
                return _applied(_ARITHMETIC[type(op)], self._value(left, subject), self._value(right, subject))
            case ast.UnaryOp(ast.USub(), operand):
                return _applied(operator.sub, lambda rows: np.zeros(()), self._value(operand, subject))
            case ast.Call(ast.Name("_"), [inside]):
                return self._condition(inside, subject)
            case ast.Call(ast.Name(kind), [ast.Constant(value=int() as window)]):
                return self._statistic(kind, subject, window)
            case ast.Call(ast.Name(kind), [ast.Subscript() as of, ast.Constant(value=int() as window)]) if kind != "_":
                return self._statistic(kind, _first_name(of), window)
        raise ValueError(f"{_EXPECTED} {self.text!r}")

    def _named(self, name: str) -> Node:
        self.names.add(name)
        return self._terms.setdefault(name, lambda rows: rows.values[name])

    def _statistic(self, kind: str, of: str, window: int) -> Node:
        if not of:
            raise ValueError(f"expected the name of what is compared, such as norm or loss, in {self.text!r}")
        if not 1 <= window <= WIDEST:
            raise ValueError(f"expected a whole number from 1 to {WIDEST:,}, got {window}")
        self._named(of)
        self.window = max(self.window, window)
        return self._terms.setdefault(f"{kind}({of}, {window})", lambda rows: rows.statistic(kind, of, window))


def _tree(text: str) -> ast.expr:
    """Parse as Python what names, ``n['loss']``, and parentheses, ``_(...)``, are made unmistakable in."""
    if len(text) > LONGEST:
        raise ValueError(f"expected at most {LONGEST} characters, got {len(text)}")
    place, words = 0, [""]
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None or not math.isfinite(float(token["number"] or 0)):
            raise ValueError(f"{_EXPECTED} {text[place:].strip()!r}")
        place = token.end()
        words.append(_word(token))
    source = " ".join(words).strip()
    try:
        tree = ast.parse(source, mode="eval").body
    except SyntaxError:
        raise ValueError(f"{_EXPECTED} {text!r}") from None
    level, depth = list[ast.AST]([tree]), 0
    while level:
        level, depth = [child for node in level for child in ast.iter_child_nodes(node)], depth + 1
    if depth > DEEPEST or (",", ")") in itertools.pairwise(words):  # Python takes a comma after the last argument
        raise ValueError(f"{_EXPECTED} {text!r}, with at most {DEEPEST} operations inside each other")
    return tree


def _word(token: re.Match[str]) -> str:
    """Write a token as Python has it."""
    if number := token["number"]:
        return str(int(number) if number.isdecimal() else float(number))
    name = 'norm("{}")'.format(token["word"] or token["of"]) if token["group"] else token["name"] or token["quoted"]
    if name:
        return f"n[{name!r}]"
    return "_(" if token["open"] else token["plain"] or ""


def _first_name(tree: ast.expr) -> str:
    """First name in an expression from left to right; empty where there is none."""
    names = {
        node.col_offset: ast.literal_eval(node.slice) for node in ast.walk(tree) if isinstance(node, ast.Subscript)
    }
    return str(names[min(names)]) if names else ""


def _truth(x: Float64) -> NDArray[np.bool_]:
    return np.asarray((x != 0) & ~np.isnan(x))


def _applied(operation: Operation, a: Node, b: Node) -> Node:
    return lambda rows: operation(a(rows), b(rows))


def _compared(operation: Operation, a: Node, b: Node) -> Node:
    def compare(rows: Rows) -> Float64:
        left, right = a(rows), b(rows)
        holds: Float64 = np.where(np.isnan(left) | np.isnan(right), np.nan, operation(left, right))
        return holds

    return compare
