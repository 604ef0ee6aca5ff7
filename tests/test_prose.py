"""The pages keep to the rules of ``.ci/prose.toml``, and the check notices what does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def check(*files):
    command = [sys.executable, str(ROOT / ".ci" / "prose"), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_everything_that_people_read_keeps_to_the_rules():
    done = check()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("The table has a row a run.", "one row per run"),
        ("It says what becomes of an error.", "say what happens"),
        ("Use `x`, " + "and then another word " * 9 + "at last.", "a sentence of"),
        ("* One short item.\n* " + "word " * 21, "a line of"),
    ],
)
def test_what_breaks_a_rule_is_named(tmp_path, text, finding):
    page = tmp_path / "page.md"
    page.write_text(text + "\n")
    done = check(page)
    assert done.returncode == 1
    assert finding in done.stdout


@pytest.mark.parametrize(
    "text",
    [
        "```text\na row a run, and what becomes of it\n```",
        "| a row a run |\n|---|",
        "Two sentences.\n" * 20,
        "* item\n" * 40,
        "[" + "word " * 5 + "](page-with-a-long-name.md)",
    ],
    ids=("code", "table", "short sentences", "items", "a link"),
)
def test_code_tables_and_short_sentences_pass(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text + "\n")
    assert check(page).stdout == ""


def test_the_glossary_has_the_headings_of_the_two_main_tables():
    lines = (ROOT / "docs" / "reading-the-output.md").read_text().splitlines()
    tables = [i for i, line in enumerate(lines) if line.startswith(("predictability", "rank: directions"))]
    headings = {word for i in tables for word in re.split(r" {2,}", lines[i + 1].strip())}
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    defined = " ".join(re.findall(r"^\*\*.*$", glossary, re.MULTILINE))
    assert {"kappa", "estimated true rank"} <= headings
    assert not [word for word in headings - {"9 in 10", "range"} if word not in defined]


def test_docstrings_and_help_texts_are_read(tmp_path):
    module = tmp_path / "module.py"
    module.write_text('"""A row a run."""\n\nimport click\n\noption = click.option("--x", help="What becomes of x.")\n')
    lines = check(module).stdout.splitlines()
    assert [line.rpartition(":")[0].split(":")[1] for line in lines] == ["1", "5"]
