"""What gradlog answers about the sample runs is what it answered when ``golden_outputs/make.py`` last ran."""

from __future__ import annotations

import pytest

from tests.golden_outputs import make


@pytest.mark.parametrize("name", list(make.outputs()))
def test_an_answer_is_the_pinned_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make.SAMPLES)
    changed = make.differences(name, make.outputs()[name]())
    told = "\n".join(line[:300] for line in changed[:20])
    assert not changed, f"{len(changed)} lines; python tests/golden_outputs/make.py pins new answers:\n{told}"


def test_every_pinned_file_is_an_answer() -> None:
    pins = {path.name for path in make.HERE.iterdir() if path.suffix in (".out", ".xz", ".page")}
    assert pins == set(make.outputs())
    assert sum((make.HERE / name).stat().st_size for name in pins) < 1.5e6


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("json.kappa.last.value = ", "json.kappa.last.values = "),  # a renamed field
        ("json.kappa.last.value = ", "json.kappa.last.value = 1"),  # another number
        ("json.run.steps = 300", "json.run.steps = 301"),
        ("json.run.steps = 300", "json.run.steps = 300.0"),
        ('json.svd.method = "gram"', 'json.svd.method = "exact"'),  # another label
        ("dataset.kappa float64 {'predictor': 7}", "dataset.kappa float32 {'predictor': 7}"),
    ],
)
def test_a_change_of_the_data_is_told(old: str, new: str) -> None:
    lines = make.pinned("mlp_wine_exact.xz")
    assert any(old in line for line in lines)
    assert make.differences("mlp_wine_exact.xz", lines) == []
    assert make.differences("mlp_wine_exact.xz", [line.replace(old, new) for line in lines])


def test_a_changed_digit_is_told_and_rounding_is_not() -> None:
    lines = make.pinned("mlp_wine_exact.xz")
    at = next(i for i, line in enumerate(lines) if line.startswith("dataset.kappa float64"))
    values = make.FLOAT.findall(lines[at])

    def with_first_scaled(factor: float) -> list[str]:
        changed = lines[at].replace(values[0], repr(float(values[0]) * factor), 1)
        return [*lines[:at], changed, *lines[at + 1 :]]

    assert make.differences("mlp_wine_exact.xz", with_first_scaled(1 + 1e-7)) == []
    assert len(make.differences("mlp_wine_exact.xz", with_first_scaled(1 + 1e-3))) == 2


def test_a_changed_blank_of_a_table_and_a_lost_line_are_told() -> None:
    lines = make.pinned("compare.out")
    assert make.differences("compare.out", [f"{lines[0]} ", *lines[1:]])
    assert make.differences("compare.out", lines[:-1])
