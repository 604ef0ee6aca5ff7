"""What is installed, what is imported, and what must never be committed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gradlog

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SAMPLE = ROOT / "sample_logs" / "mlp_wine_exact.zarr"
HEAVY = {
    "dask",
    "distributed",
    "xarray",
    "scipy",
    "torch",
    "matplotlib",
    "h5py",
    "h5netcdf",
    "pandas",
    "jinja2",
    "numba",
}


def folders_with_init(top: str) -> set[str]:
    """Import names of the packages below one of the three source folders."""
    prefix = [] if top == "gradlog" else ["gradlog"]
    found = (
        (ROOT / top).rglob("__init__.py", recurse_symlinks=False)
        if sys.version_info >= (3, 13)
        else (ROOT / top).rglob("__init__.py")
    )
    inside = [p.parent.relative_to(ROOT).parts for p in found]
    return {
        ".".join([*prefix, *parts])
        for parts in inside
        if parts[:2] not in {("gradlog", "analysis"), ("gradlog", "cli")}
    }


def test_every_package_folder_is_installed() -> None:
    declared = PROJECT["tool"]["setuptools"]["packages"]
    folders = folders_with_init("gradlog") | folders_with_init("analysis") | folders_with_init("cli")
    assert sorted(declared) == sorted(folders)
    assert "gradlog.cli" in folders


def test_links_of_the_checkout_lead_to_the_mapped_folders() -> None:
    for name, folder in PROJECT["tool"]["setuptools"]["package-dir"].items():
        assert ROOT.joinpath(*name.split(".")).resolve() == (ROOT / folder).resolve()


def test_dependency_floors_are_lower_bounds() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    shipped = PROJECT["project"]["dependencies"] + [
        d for extra, ds in extras.items() if extra not in ("test", "dev") for d in ds
    ]
    for requirement in shipped:
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?>=\d+(\.\d+)*", requirement), requirement
    assert not any(d.startswith("torch") for d in PROJECT["project"]["dependencies"])


def modules_after(code: str) -> set[str]:
    """Top-level names of the modules a fresh interpreter holds after ``code``."""
    code += "\nimport sys, json; print('\\n' + json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


RUN = """
import gradlog.cli
try:
    gradlog.cli.main({args!r})
except SystemExit as done:
    assert not done.code, done.code
"""


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("from gradlog import *", set()),
        ("import gradlog.cli", set()),
        ("import gradlog.analysis", set()),
        (RUN.format(args=["--help"]), {"click"}),
        (RUN.format(args=["analyze", "--help"]), {"click"}),
        (RUN.format(args=["info", str(SAMPLE)]), {"click", "zarr", "fsspec"}),
    ],
    ids=["recorder", "cli", "analysis", "help", "analyze-help", "info"],
)
def test_import_weight(code: str, allowed: set[str]) -> None:
    loaded = modules_after(code)
    assert "gradlog" in loaded
    assert loaded & (HEAVY | {"zarr", "fsspec", "click"}) <= allowed


def test_a_name_is_loaded_when_it_is_used() -> None:
    assert not {"numpy", "zarr"} & modules_after("import gradlog")
    assert "numpy" in modules_after("import gradlog; gradlog.open")
    with pytest.raises(AttributeError, match="no attribute 'opn'"):
        getattr(gradlog, "opn")  # noqa: B009


def test_import_weight_is_measured_at_all() -> None:
    assert "scipy" in modules_after("import scipy")


def imports_of(path: Path) -> set[str]:
    """Names imported anywhere in a module, functions included, but not under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_the_import_contracts_name_every_module_of_the_recorder() -> None:
    contracts = {c["name"]: c for c in PROJECT["tool"]["importlinter"]["contracts"]}
    named = set(contracts["The recorder is light"]["source_modules"])
    modules = {f"gradlog.{p.stem}" for p in (ROOT / "gradlog").glob("*.py")} - {"gradlog.__init__", "gradlog.__main__"}
    wings = {f"gradlog.{p.parent.name}" for p in (ROOT / "gradlog").glob("*/__init__.py")}
    assert named == modules | wings - {"gradlog.analysis", "gradlog.cli"}
    layered = {m for layer in next(iter(contracts.values()))["layers"] for m in layer.split(" : ")}
    assert {name.removeprefix("gradlog.") for name in named} <= layered


def test_every_folder_of_the_product_is_packaged() -> None:
    """A folder that is left out builds a wheel without it, and nothing fails."""
    folders = {
        ".".join((*package.split("."), *path.parent.relative_to(ROOT / base).parts))
        for base, package in (("gradlog", "gradlog"), ("analysis", "gradlog.analysis"), ("cli", "gradlog.cli"))
        for path in (ROOT / base).rglob("*.py")
        if not path.is_relative_to(ROOT / "gradlog" / "analysis") and not path.is_relative_to(ROOT / "gradlog" / "cli")
    }
    assert folders == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_analyzer_has_a_layer_for_each_wing() -> None:
    wings = {path.parent.name for path in (ROOT / "analysis").glob("*/__init__.py")}
    layers = [c for c in PROJECT["tool"]["importlinter"]["contracts"] if c.get("containers") == ["gradlog.analysis"]]
    assert {wing for layer in layers[0]["layers"] for wing in layer.split(" : ")} == wings


def test_the_command_line_never_computes() -> None:
    for path in (ROOT / "cli").glob("*.py"):
        used = {name.partition(".")[0] for name in imports_of(path)}
        assert not used & {"numpy", "scipy", "dask", "xarray", "zarr"}, path.name


def tracked_files() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


MACHINE_PATH = re.compile(rb"(?<![\w./:-])/(?:home|root|Users|work|opt|mnt|private)/\w")


def test_no_tracked_file_names_a_path_of_some_machine() -> None:
    here = Path(__file__).resolve()
    found = [p.relative_to(ROOT) for p in tracked_files() if p != here and MACHINE_PATH.search(p.read_bytes())]
    assert found == []


def test_the_search_for_machine_paths_finds_one() -> None:
    assert MACHINE_PATH.search(b'"argv": ["/home/someone/train.py"]')
    assert not MACHINE_PATH.search(b"#!/usr/bin/env bash; https://host/home/page; a/work/b")
