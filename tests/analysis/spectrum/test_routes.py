"""What every route to a spectrum keeps to: the truth lies within what it certifies, and scopes agree between routes."""

from __future__ import annotations

import numpy as np
import pytest

from gradlog.analysis import open_run
from gradlog.analysis.spectrum import rank
from gradlog.analysis.spectrum.routes import ROUTES, Sums, choose
from gradlog.analysis.streaming import schedule
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.totals import add, contributions
from tests.helpers import reference, stores

CUTS, GROUPS, K = [0, 4, 60, 90], 2, 120


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Rows of a few slow directions and noise in 240 columns, the later ones of more noise, a gap before step 61."""
    rng = np.random.default_rng(0)
    slow = np.sin(np.arange(90)[:, None] / 9 + np.arange(6)) @ rng.standard_normal((6, GROUPS * K))
    rows = slow + np.linspace(0.1, 0.3, 90)[:, None] * rng.standard_normal((90, GROUPS * K))
    steps = np.r_[:60, 61:91]
    path = tmp_path_factory.mktemp("routes") / "r.zarr"
    return open_run(stores.write_run(path, rows.reshape(90, GROUPS, K).astype(np.float32), steps=steps))


@pytest.fixture(params=ROUTES)
def route(request, run):
    return choose(request.param, run.n_steps, run.n_groups, run.k)


def sums_of(run, route, start, stop, group=None, **options):
    """Sums of a range of rows, as one pass collects them for the route."""
    recipe = route.collect(Recipe(run.n_groups, run.k, scatter=True), options.get("by_group", True), False, 0)
    panes = contributions(schedule.compute(run.rows, run.contiguous_ranges, CUTS, recipe))
    route.read(run.rows, run.contiguous_ranges)
    inside = [sums for sums, low in zip(panes, CUTS, strict=False) if start <= low < stop]
    return Sums(add(inside), recipe, start, stop, group)


def increments(run, start, stop, group=None):
    """Increments of these rows, by numpy."""
    G = run.rows.read(0, run.n_steps).astype(float).reshape(run.n_steps, GROUPS, K)
    G = (G if group is None else G[:, group]).reshape(run.n_steps, -1)
    rows = [t for a, b in run.contiguous_ranges.tolist() for t in range(max(a + 1, start), min(b, stop))]
    return G[rows] - G[np.array(rows) - 1]


@pytest.mark.parametrize("scope", [(0, 90), (4, 90), (4, 60), (60, 90)])
@pytest.mark.parametrize("group", [None, 0, 1])
def test_the_rank_of_every_scope_lies_in_the_certified_interval(run, route, scope, group):
    H = increments(run, *scope, group)
    found = route.spectrum(sums_of(run, route, *scope, group))
    assert found.total == pytest.approx(np.square(H).sum(), rel=1e-5)
    assert found.size == min(H.shape)
    for eps in (0.3, 0.1, 0.02):
        low, high = rank.rank_interval(found, eps)
        assert low <= reference.rank_at(H, eps) <= high


def test_an_exact_route_gives_the_singular_values(run, route):
    H = increments(run, 4, 90)
    found = route.spectrum(sums_of(run, route, 4, 90))
    values = np.linalg.svd(H, compute_uv=False) ** 2
    if found.complete:
        np.testing.assert_allclose(found.energies[:80], values[:80], rtol=1e-3)
    else:
        assert (found.energies <= values[: len(found.energies)] + 1e-5 * values.sum()).all()


@pytest.mark.parametrize("group", [None, 1])
def test_the_scatter_of_the_rows_is_that_of_centred_rows(run, route, group):
    found = route.scatter(sums_of(run, route, 0, 60, group))
    G = run.rows.read(0, 60).astype(float).reshape(60, GROUPS, K)
    G = (G if group is None else G[:, group]).reshape(60, -1)
    values = 2 * np.linalg.svd(G - G.mean(axis=0), compute_uv=False) ** 2
    assert found.total == pytest.approx(values.sum(), rel=1e-4)
    leading = found.energies[:4]
    np.testing.assert_allclose(leading, values[:4], rtol=1e-3)


def test_further_passes_narrow_an_open_rank_and_no_closed_one(run, route):
    sums = sums_of(run, route, 0, 90)
    H = increments(run, 0, 90)
    passes = []

    def apply(V):
        passes.append(V.shape)
        return H.T @ (H @ V)

    found = route.refined(sums, apply, 3, (0.02,))
    if route.spectrum(sums).complete:
        assert found is None
        assert passes == []
    else:
        assert len(passes) == found.passes - 1 <= 2
        low, high = rank.rank_interval(found.spectrum, 0.02)
        assert low <= reference.rank_at(H, 0.02) <= high
        assert found.spectrum.unseen <= route.spectrum(sums).unseen


def test_leading_vectors_carry_the_leading_energy(run, route):
    H = increments(run, 0, 90)
    vectors = route.leading(sums_of(run, route, 0, 90), 3)
    if vectors is None:  # the Gram of the rows has none of the columns
        assert route.method == "rows"
        return
    assert np.square(H @ vectors).sum() == pytest.approx((np.linalg.svd(H, compute_uv=False)[:3] ** 2).sum(), rel=1e-3)


def test_without_groups_no_route_keeps_their_grams(run, route):
    sums = sums_of(run, route, 0, 90, 1, by_group=False)
    assert route.spectrum(sums) is None or route.method == "gram"


@pytest.mark.parametrize(
    ("rows", "groups", "k", "method"),
    [(10**6, 6, 256, "gram"), (1024, 8, 256, "rows"), (1025, 8, 256, "nystrom"), (1000, 200, 256, "nystrom")],
)
def test_the_cheapest_route_is_chosen_and_says_why(rows, groups, k, method):
    found = choose("auto", rows, groups, k)
    assert found.method == method
    assert str(groups * k) in found.reason
    assert choose(method, rows, groups, k).reason.endswith("as asked")


def test_an_unknown_route_is_refused():
    with pytest.raises(ValueError, match="svd"):
        choose("qr", 10, 1, 10)
