"""What the documents and the examples name is there, and only where names are public."""

from __future__ import annotations

import ast
import json
import pickle
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest

import gradlog
import gradlog.analysis

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.py")),
         *sorted((ROOT / "examples").glob("*.ipynb")), *sorted((ROOT / "sample_logs").glob("*.py"))]  # fmt: skip
DOTTED = re.compile(r"(?<![\w./-])gradlog((?:\.[A-Za-z_]\w*)+)(?![\w/])")
"""A path of Python; not ``gradlog.audit/1``, which is the name of a schema."""
IMPORTED = re.compile(r"from gradlog((?:\.\w+)*) import ([\w, ]+)")


def words(path: Path) -> str:
    """Text of a document; of a notebook its cells."""
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def paths(text: str) -> set[tuple[str, ...]]:
    """Paths below ``gradlog`` that a text names."""
    imported = {
        (*module.split(".")[1:], name.split(" as ")[0].strip())
        for module, names in IMPORTED.findall(text)
        for name in names.split(",")
    }
    return imported | {tuple(path.split(".")[1:]) for path in DOTTED.findall(text)}


def is_public(path: tuple[str, ...]) -> bool:
    """Whether a path leads through public places alone to something that is there."""
    if path[0] == "integrations":
        return len(path) == 2 or (len(path) == 3 and path[2] in defined(path[1]))
    here = gradlog
    if path[0] in ("analysis", "errors"):
        here, path = import_module(f"gradlog.{path[0]}"), path[1:]
    if path and path[0] not in getattr(here, "__all__", path):
        return False
    for name in path:
        if not hasattr(here, name):
            return False
        here = getattr(here, name)
    return True


def defined(framework: str) -> set[str]:
    """Names that the module of a framework defines, found without the framework."""
    folder = ROOT / "gradlog" / "integrations"
    whole = folder / framework / "__init__.py"
    tree = ast.parse((whole if whole.exists() else folder / f"{framework}.py").read_text())
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    made = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return imported if whole.exists() else made


def test_every_name_in_the_documents_and_examples_is_public_and_there() -> None:
    wrong = {f"{file.name}: gradlog.{'.'.join(p)}" for file in TEXTS for p in paths(words(file)) if not is_public(p)}
    assert not wrong


def test_deep_and_missing_names_are_found_out() -> None:
    text = "gradlog.analysis.cosine.cosines, gradlog.nothing and\nfrom gradlog.analysis.watch import Look, is_live\n"
    found = paths(text + "gradlog.open of gradlog.audit/1 in https://a.b/gradlog.html; gradlog.Logger.step")
    assert {path for path in found if not is_public(path)} == {
        ("analysis", "cosine", "cosines"),
        ("nothing",),
        ("analysis", "watch", "Look"),
        ("analysis", "watch", "is_live"),
    }
    assert {("open",), ("Logger", "step")} <= found


@pytest.mark.parametrize("package", [gradlog, gradlog.analysis], ids=lambda package: package.__name__)
def test_every_public_name_is_there_and_is_listed(package) -> None:
    assert {*package.__all__, "__doc__", "__file__"} <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_what_is_not_there_says_so() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        gradlog.analysis.nothing  # noqa: B018


@pytest.mark.parametrize("package", [gradlog, gradlog.analysis], ids=lambda package: package.__name__)
def test_no_module_hides_a_public_name(package) -> None:
    """Importing a submodule sets an attribute of its package."""
    assert not {module.name for module in pkgutil.iter_modules(package.__path__)} & set(package.__all__)


def test_public_functions_and_classes_can_be_pickled() -> None:
    things = [getattr(gradlog.analysis, name) for name in gradlog.analysis.__all__ if name != "plots"]
    assert [pickle.loads(pickle.dumps(thing)) for thing in things] == things
