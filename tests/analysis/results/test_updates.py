"""Gradients against updates: a loop over rows, curvature that is known, and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import GradientAndUpdate, analyze, gradient_and_update, html_report, open_run, to_json
from gradlog.analysis.results import updates
from gradlog.analysis.results.findings import findings
from gradlog.errors import TooFewStepsError
from gradlog.format.header import SKIPPED
from gradlog.recorder.rows.row_builder import Row

BOTH = ("gradient", "update")
SAMPLE = Path(__file__).resolve().parents[3] / "sample_logs/mlp_wine_exact.zarr"
Pair = tuple[np.ndarray, np.ndarray]


def record(path: Path, pairs: Iterator[tuple[np.ndarray, ...]], groups: int = 1, **options: object) -> Path:
    """Record gradients, updates and, where there is a third, halves; vectors are cut into groups of equal size."""
    options = {"k": "exact", "groups": "tensors", "what": BOTH, "journal": False, "on_error": "raise"} | options

    def cut(x: np.ndarray) -> dict[str, np.ndarray]:
        return {f"w{i}": part for i, part in enumerate(np.split(x.astype(np.float32), groups))}

    with gradlog.open(path, **options) as log:
        for g, u, *half in pairs:
            log.step(cut(g), update=cut(u), half=cut(half[0]) if half else None)
    return path


def quadratic(curvature: np.ndarray, steps: int, lr: float, momentum: float = 0.0, noise: float = 0.0, seed: int = 0,
              rescaled: bool = False) -> Iterator[tuple[np.ndarray, ...]]:  # fmt: skip
    """Descend 1/2 sum h x^2 by SGD, or by a rule that rescales each coordinate; batches in two halves."""
    rng = np.random.default_rng(seed)
    x, v = np.ones(len(curvature)), np.zeros(len(curvature))
    for _ in range(steps):
        halves = curvature * x + noise * rng.normal(size=(2, len(x)))
        g = halves.mean(axis=0)
        v = momentum * v + g
        u = -lr * (v / (0.1 + curvature) if rescaled else v)
        yield g, u, halves[0]
        x = x + u


def truth(pairs: Iterator[tuple[np.ndarray, ...]], curvature: np.ndarray, skip: int = 0) -> float:
    """Curvature along the steps, all but the last."""
    u = np.array([pair[1] for pair in pairs])[skip:-1]
    return float((curvature * u * u).sum() / (u * u).sum())


def covers(found: GradientAndUpdate, name: str, value: float, scope: int = 0) -> bool:
    estimate = getattr(found, name)
    return bool(estimate.low[0, scope] <= value <= estimate.high[0, scope])


def test_a_loop_over_rows_gives_the_same(tmp_path: Path) -> None:
    """With a gap, a row that is not finite, one that was skipped, and an update that is not known."""
    rng = np.random.default_rng(1)
    g, u = rng.normal(size=(2, 40, 6)).astype(np.float32)
    g[9, 2], u[22] = np.nan, np.nan
    steps = [t for t in range(41) if t != 15]
    sketches = {"k": "exact", "groups": "tensors", "what": BOTH, "journal": False, "on_error": "raise"}
    with gradlog.open(tmp_path / "r.zarr", {"a": np.zeros(3), "b": np.zeros(3)}, **sketches) as log:
        for t, step in enumerate(steps):

            def fill(x: np.ndarray) -> Callable[[np.ndarray, np.ndarray], int]:
                def write(out: np.ndarray, norm2: np.ndarray) -> int:
                    out[:], norm2[:] = x.reshape(2, 3), np.square(x.reshape(2, 3)).sum(1)
                    return 0

                return write

            row = Row(fill(g[t]), {}, SKIPPED if t == 30 else 0, update=fill(u[t]))
            log.recorder.record(lambda row=row: row, step)
    found = gradient_and_update(open_run(tmp_path / "r.zarr"), rows=20)
    assert repr(found) == "<gradlog.analysis.GradientAndUpdate: 2 stretches x 3 scopes>"
    assert found.first.tolist() == [0, 21]
    assert found.scopes == ("", "a", "b")
    for w, low in enumerate((0, 20)):
        for scope, part in enumerate((slice(None), slice(3), slice(3, 6))):
            sums = dict.fromkeys(("gg", "gu", "uu", "du", "uu_d", "up", "uu_p", "pp"), 0.0)
            for t in range(low, low + 20):
                good = [0 <= i < 40 and i not in (9, 30) for i in (t - 1, t, t + 1)]
                known = [ok and i != 22 for ok, i in zip(good, (t - 1, t, t + 1), strict=True)]
                if not known[1]:
                    continue
                G, U = g[t, part].astype(float), u[t, part].astype(float)
                sums["gg"] += G @ G
                sums["gu"] += G @ U
                sums["uu"] += U @ U
                if good[2] and steps[t + 1] == steps[t] + 1:
                    sums["du"] += (g[t + 1, part].astype(float) - G) @ U
                    sums["uu_d"] += U @ U
                if known[0] and steps[t - 1] == steps[t] - 1:
                    P = u[t - 1, part].astype(float)
                    sums["up"] += U @ P
                    sums["uu_p"] += U @ U
                    sums["pp"] += P @ P
            cosine = -sums["gu"] / np.sqrt(sums["gg"] * sums["uu"])
            assert found.cosine.value[w, scope] == pytest.approx(cosine, rel=1e-6)
            assert found.curvature.value[w, scope] == pytest.approx(sums["du"] / sums["uu_d"], rel=1e-6)
            assert found.previous.value[w, scope] == pytest.approx(sums["up"] / np.sqrt(sums["uu_p"] * sums["pp"]))
    assert np.isnan(found.edge.value).all()


@pytest.mark.parametrize(("momentum", "k"), [(0.0, 64), (0.9, 64), (0.9, "exact")])
def test_sgd_on_a_quadratic(tmp_path: Path, momentum: float, k: object) -> None:
    """The rule is read off the sketches; the curvature of each group, of one value in it, is exact."""
    h = np.repeat([1.0, 4.0], 500)
    run = open_run(record(tmp_path / "r.zarr", quadratic(h, 40, 0.1, momentum), groups=2, k=k))
    found = gradient_and_update(run, rows=40)
    assert found.rate.value == pytest.approx(np.full((1, 3), 0.1), rel=1e-3)
    assert found.momentum.value == pytest.approx(np.full((1, 3), momentum), abs=1e-3)
    assert found.explained.value == pytest.approx(np.ones((1, 3)), abs=1e-5)
    assert found.edge.value[0, 0] == pytest.approx(2 * (1 + momentum) / 0.1, rel=1e-3)
    assert found.curvature.value[0, 1:] == pytest.approx([1.0, 4.0], rel=1e-3)
    assert found.shared.value[0, 1:] == pytest.approx([1.0, 4.0], rel=1e-3)
    assert covers(found, "curvature", truth(quadratic(h, 40, 0.1, momentum), h))
    if momentum == 0:
        assert found.cosine.value == pytest.approx(np.ones((1, 3)))
        assert found.momentum.value.tolist() == [[0.0] * 3]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_minibatch_noise_is_in_the_plain_curvature_and_in_no_other(tmp_path: Path, momentum: float) -> None:
    h = np.linspace(0.1, 10, 1000)
    arguments = (h, 120, 0.02, momentum, 5.0)
    found = gradient_and_update(open_run(record(tmp_path / "r.zarr", quadratic(*arguments), k=64)), rows=120)
    known = truth(quadratic(*arguments), h)
    assert found.curvature.low[0, 0] > 1.5 * known
    assert covers(found, "corrected", known)
    if momentum:  # successive steps go the same way
        assert covers(found, "shared", known)
        assert found.shared.value[0, 0] == pytest.approx(known, rel=0.25)
        assert found.corrected.value[0, 0] == pytest.approx(known, rel=0.25)
    else:
        assert np.isnan(found.shared.value[0, 0])
    alone = ((g, u) for g, u, _ in quadratic(*arguments))  # without half batches nothing corrects it
    found = gradient_and_update(open_run(record(tmp_path / "a.zarr", alone, k=64)), rows=120)
    assert np.isnan(found.corrected.value).all()


def test_an_optimizer_that_rescales_has_no_edge_and_no_correction(tmp_path: Path) -> None:
    h = np.linspace(0.1, 10, 1000)
    path = record(tmp_path / "r.zarr", quadratic(h, 100, 1e-2, 0.9, 2.0, rescaled=True), k=64)
    found = gradient_and_update(open_run(path), rows=100)
    assert found.explained.value[0, 0] < 0.995
    assert np.isnan([found.edge.value, found.corrected.value]).all()
    assert covers(found, "shared", truth(quadratic(h, 100, 1e-2, 0.9, 2.0, rescaled=True), h))


def test_units_change_nothing_but_scales(tmp_path: Path) -> None:
    h = np.linspace(0.1, 10, 200)
    pairs = [(g, u) for g, u, _ in quadratic(h, 24, 0.1, 0.5, 0.1)]
    one, other = (
        gradient_and_update(open_run(record(tmp_path / f"{i}.zarr", iter(x), k=16)), rows=12)
        for i, x in enumerate((pairs, [(2**5 * g, 2**-3 * u) for g, u in pairs]))
    )
    for name in ("cosine", "previous", "explained", "momentum"):
        np.testing.assert_allclose(getattr(one, name).low, getattr(other, name).low, rtol=1e-9)
    for name, factor in (("curvature", 2**8), ("edge", 2**8), ("rate", 2**-8)):
        np.testing.assert_allclose(getattr(other, name).high, factor * getattr(one, name).high, rtol=1e-9)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SGD far below its edge of stability, in two groups."""
    path = tmp_path_factory.mktemp("steady") / "r.zarr"
    return record(path, ((g, u) for g, u, _ in quadratic(np.repeat([1.0, 4.0], 50), 60, 0.05)), groups=2, k=32)


def test_an_analysis_has_them_whole_and_by_group(steady: Path) -> None:
    run = open_run(steady)
    document = to_json(analyze(run, by_group=True))
    found = gradient_and_update(run, rows=60)
    for scope, place in enumerate((document, *document["by_group"].values())):
        update = place["update"]
        for name in ("cosine", "rate", "curvature", "edge"):
            value = getattr(found, name).value[0, scope]  # one stretch has the same steps as all that analyze reads
            if np.isnan(value):  # a group of one curvature has no certain edge
                assert update[name]["value"] is None
            else:
                assert update[name]["value"] == pytest.approx(value, rel=0.05)
                assert update[name]["low"] <= update[name]["value"] <= update[name]["high"]
        assert update["corrected"]["value"] is None
        assert update["relative"]["value"] is None
    assert not [w for w in document["warnings"] if "update" in w]
    assert "update" not in to_json(analyze(str(SAMPLE)))


def test_what_they_say_and_how_they_look(steady: Path) -> None:
    told = [finding.text for finding in findings(to_json(analyze(str(steady)))) if finding.text.startswith("Updates")]
    cosines, curved = "Updates have cosine +1.00 with the negative gradient and +", "as at the edge of stability."
    assert len(told) == 1
    assert told[0].startswith(cosines)
    assert told[0].endswith(curved)
    page = html_report([str(steady)])
    assert 'id="figure-update_cosines"' in page
    assert 'id="figure-curvature"' in page


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "g.zarr", k=8) as log:
        log.step({"w": np.ones(30)})
    with pytest.raises(TooFewStepsError, match="an update beside each gradient; attach or open with what="):
        gradient_and_update(open_run(tmp_path / "g.zarr"))
    run = open_run(record(tmp_path / "r.zarr", quadratic(np.ones(8), 5, 0.1)))
    with pytest.raises(TooFewStepsError, match="5 steps, at least 8 needed"):
        gradient_and_update(run)
    with pytest.raises(ValueError, match="1 step or more"):
        gradient_and_update(run, rows=0)


def test_long_runs_are_read_in_part_and_every_second_step_has_no_curvature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updates, "STRETCHES", 5)
    monkeypatch.setattr(updates, "LONGEST", 16)
    found = updates.products(open_run(record(tmp_path / "r.zarr", quadratic(np.ones(4), 200, 1e-3), k=4)))
    assert found.first.tolist() == [0, 46, 92, 138, 184]
    assert found.rows.tolist() == [16] * 5
    half = gradient_and_update(open_run(record(tmp_path / "e.zarr", quadratic(np.ones(4), 40, 0.1), every=2)), rows=10)
    assert np.isnan([half.curvature.value, half.previous.value, half.explained.value]).all()
    assert half.cosine.value == pytest.approx(np.ones((2, 2)))
