"""analyze() on real stores against the definitions, irregular logs and refusals included."""

from __future__ import annotations

import gc
import json
import signal
import threading
import time

import numpy as np
import pytest
import stores
import xarray as xr

from gradlog.analysis import Linear, analyze, open_run, to_json
from gradlog.analysis.predictors import Fitted, parse
from gradlog.errors import MemoryLimitError, TooFewStepsError
from tests import reference

rng = np.random.default_rng(5)


def smooth(T, groups=2, k=8, noise=1.0, seed=0):
    r = np.random.default_rng(seed)
    X = np.cumsum(r.standard_normal((T, groups, k)), 0) * 0.3 + noise * r.standard_normal((T, groups, k))
    return X.astype(np.float32)


@pytest.fixture(scope="module")
def exact_run(tmp_path_factory):
    X = smooth(130)
    path = stores.write_run(
        tmp_path_factory.mktemp("runs") / "exact.zarr",
        X,
        exact=True,
        scalars={"loss": np.linspace(2, 1, 130), "lr": np.full(130, 0.1), "batch_size": np.full(130, 32.0)},
    )
    return path, X.reshape(130, -1).astype(np.float64)


PREDICTORS = ["zero", "last", "ema(0.9)", "ema(0.99)", "trend", "ar(3)", "best-ema", Linear("two", (0.5, 0.5))]


def oracle_kappa(G, chains, name):
    E = sum(np.square(G[a:b]).sum() for a, b in chains)
    if name == "two":
        P = reference.path_length(G, chains, "linear", (0.5, 0.5))
    elif name.startswith("ar"):
        P = reference.path_length(G, chains, "linear", reference.ar_weights(G, chains, 3))
    else:
        P = reference.path_length(G, chains, name)
    return P.sum() / E


def test_exact_mode_agrees_with_the_definitions(exact_run):
    path, G = exact_run
    ds = analyze(str(path), PREDICTORS, eps=(0.3, 0.1, 0.01))
    chains = [(0, len(G))]
    for name in ds.predictor.values:
        kappa = ds.sel(predictor=name)
        if name == "best-ema":
            at = lambda beta: oracle_kappa(G, chains, f"ema({beta!r})")  # noqa: E731
            assert float(kappa.kappa) == pytest.approx(at(float(kappa.beta)), abs=2e-5)
            assert float(kappa.kappa) <= min(map(at, (1 - np.geomspace(1, 1 / 1000, 60)).tolist())) + 2e-5
        else:
            assert float(kappa.kappa) == pytest.approx(oracle_kappa(G, chains, name), rel=1e-6)
        assert float(kappa.kappa_low) == float(kappa.kappa_high) == float(kappa.kappa)
    H = np.diff(G, axis=0)
    sigma = np.linalg.svd(H, compute_uv=False)
    np.testing.assert_allclose(ds.singular_value, sigma, rtol=1e-5)
    assert ds["rank"].values.tolist() == [reference.rank_at(H, e) for e in ds.eps.values]
    np.testing.assert_allclose(ds.tail_energy[1:-1], 1 - np.cumsum(sigma**2)[:-1] / np.sum(sigma**2), atol=1e-6)
    assert float(ds.energy) == pytest.approx(np.square(G).sum())


def test_groups_windows_and_prefixes_are_the_same_measures_of_their_rows(exact_run):
    path, G = exact_run
    ds = analyze(str(path), ["last", "ema(0.9)", "trend"], window=40, stride=20, prefixes=3, burn_in=7)
    for g in range(2):
        own = G[:, 8 * g : 8 * g + 8]
        E = np.square(own[7:]).sum()
        for name in ds.predictor.values:
            expected = np.square(reference.errors(own, name)[7:]).sum() / E
            assert float(ds.group_kappa.sel(group=f"g{g}", predictor=name)) == pytest.approx(expected, rel=1e-6)
        H = np.diff(own, axis=0)[6:]
        assert ds.group_rank.sel(group=f"g{g}", eps=0.1) == reference.rank_at(H, 0.1)
    assert ds.window_first_step.values.tolist() == [7, 27, 47, 67, 87]
    for i, a in enumerate(ds.window_first_step.values):
        for name in ds.predictor.values:
            expected = np.square(reference.errors(G, name)[a : a + 40]).sum() / np.square(G[a : a + 40]).sum()
            assert float(ds.window_kappa.sel(predictor=name)[i]) == pytest.approx(expected, rel=1e-6)
        assert ds.window_rank.sel(eps=0.1)[i] == reference.rank_at(np.diff(G, axis=0)[a - 1 : a + 39], 0.1)
    last = {v: ds[f"prefix_{v}"][-1] for v in ("energy", "kappa", "rank", "kappa_null")}
    for name, value in last.items():
        np.testing.assert_allclose(value, ds[name], rtol=1e-12)


def test_spectra_and_rank_curves_of_every_scope_are_those_of_its_rows(exact_run):
    path, G = exact_run
    ds = analyze(str(path), ["last"], window=40, prefixes=2)
    H = np.diff(G, axis=0)
    scopes = {
        "": H,
        "window": H[39:79],
        "prefix": H[:64],
        "group": H[:, 8:],
        "window_group": H[39:79, 8:],
        "prefix_group": H[:64, 8:],
    }
    at = {"window": 1, "prefix": 0, "group": 1}
    for scope, rows in scopes.items():
        label = f"{scope}_" if scope else ""
        here = ds.isel({dim: at[dim] for dim in scope.split("_") if dim})
        sigma = np.linalg.svd(rows, compute_uv=False)
        np.testing.assert_allclose(here[f"{label}singular_value"][: len(sigma)], sigma, rtol=1e-4)
        tail = 1 - np.cumsum(sigma**2) / np.sum(sigma**2)
        np.testing.assert_allclose(here[f"{label}tail_energy"][1 : len(sigma) + 1], tail, atol=1e-6)


def test_shares_of_the_path_by_step_group_and_window(tmp_path):
    X = smooth(90)
    X[50, 1] += 40  # one outlier carries two increments
    flags = np.zeros(90, np.uint32)
    flags[20] = 1
    path = stores.write_run(tmp_path / "r.zarr", X, exact=True, flags=flags)
    ds = analyze(str(path), ["last", "trend"], window=45)
    G, chains = X.reshape(90, -1).astype(np.float64), [(0, 20), (21, 90)]
    errors = np.concatenate([np.square(reference.errors(G[a:b], "last")).sum(1) for a, b in chains])
    assert ds.path_step.values.tolist() == [t for t in range(90) if t != 20]
    np.testing.assert_allclose(ds.step_path_share, errors / errors.sum(), rtol=1e-4, atol=1e-9)
    assert set(ds.path_step.values[np.argsort(ds.step_path_share.values)[-2:]]) == {50, 51}
    assert int(ds.half_path_steps) == reference.fewest_for(errors, 0.5) == 2
    found = to_json(ds)["path_shares"]
    assert found["half_steps"] == 2
    assert [s["step"] for s in found["steps"][:2]] == ds.path_step.values[np.argsort(errors)[::-1][:2]].tolist()
    for name in ("last", "trend"):
        own = reference.path_length(G, chains, name).reshape(2, -1).sum(1)
        assert [found["by_group"][g][name] for g in ("g0", "g1")] == pytest.approx(own / own.sum(), rel=1e-5)
    assert float(ds.window_path_share.sel(predictor="last").sum()) == pytest.approx(1)


def test_batch_size_and_noise_scale_belong_to_the_scope(tmp_path):
    batch = np.r_[np.full(60, 16.0), np.full(60, 64.0)]
    path = stores.write_run(tmp_path / "r.zarr", smooth(120), exact=True, scalars={"batch_size": batch})
    ds = analyze(str(path), ["last"], window=60)
    for i, size in enumerate((16, 64)):
        here = ds.isel(window=i)
        assert float(here.window_noise_scale) == pytest.approx(size * float(here.window_noise / here.window_signal))
    assert float(ds.noise_scale) == pytest.approx(40 * float(ds.noise / ds.signal))


def test_the_compiled_loops_give_the_same_result_and_say_so(tmp_path):
    pytest.importorskip("numba")
    path = str(stores.write_run(tmp_path / "r.zarr", smooth(700, k=24), chunk=64))
    plain, compiled = (analyze(path, window=100, kernel=kernel) for kernel in ("numpy", "numba"))
    assert (plain.attrs["kernel"], compiled.attrs["kernel"]) == ("numpy", "numba")
    assert analyze(path).attrs["kernel"] == "numpy"  # too short to be worth loading the loops
    for name in plain.data_vars:
        np.testing.assert_allclose(compiled[name], plain[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_without_numba_numpy_steps_in_and_is_named(tmp_path, monkeypatch):
    from gradlog.analysis import fast

    path = str(stores.write_run(tmp_path / "r.zarr", smooth(40)))
    monkeypatch.setattr(fast, "available", lambda: False)
    monkeypatch.setattr(fast, "WORTH", 1)
    assert to_json(analyze(path))["kernel"] == "numpy"
    with pytest.raises(ValueError, match="extra 'fast'"):
        analyze(path, kernel="numba")


def test_gaps_and_nonfinite_rows_break_the_chain(tmp_path):
    X = smooth(60, noise=0.3)
    steps = np.arange(60) * 2
    steps[25:] += 4
    flags = np.zeros(60, np.uint32)
    flags[[0, 40, 41]] = 1
    X[40] = np.nan
    path = stores.write_run(tmp_path / "r.zarr", X, exact=True, every=2, steps=steps, flags=flags)
    chains = reference.chains_of(steps, flags == 0, every=2)
    assert chains == [(1, 25), (25, 40), (42, 60)]
    run = open_run(path)
    assert run.chains.tolist() == [list(c) for c in chains]
    G = np.nan_to_num(X.reshape(60, -1).astype(np.float64))
    ds = analyze(run, ["last", "trend", "ema(0.9)", "ar(3)", "two" and Linear("two", (0.5, 0.5))], window=20)
    for name in ds.predictor.values:
        assert float(ds.kappa.sel(predictor=name)) == pytest.approx(oracle_kappa(G, chains, name), rel=1e-6)
    np.testing.assert_allclose(run.increments().compute(), reference.increments(G, chains), atol=1e-6)
    assert int(ds.rows) == 57
    text = " ".join(json.loads(ds.attrs["warnings"]))
    assert "1 gaps" in text
    assert "3 non-finite" in text
    assert "every=2" in text


def test_frozen_parameters_and_short_stretches_are_said(tmp_path):
    X = smooth(60)
    X[:, 1] = 0
    X[30:] = 0
    ds = analyze(str(stores.write_run(tmp_path / "frozen.zarr", X, exact=True)), ["last", "ar(4)"], window=15)
    said = json.loads(ds.attrs["warnings"])
    assert "group g1: its gradient is zero throughout" in said
    assert "30 rows with a gradient of zero are counted" in said
    assert np.isnan(ds.group_kappa.sel(group="g1")).all()
    assert float(ds.window_path_length.sel(predictor="last")[2]) == pytest.approx(np.square(X[29], dtype=float).sum())
    assert np.isnan(ds.window_kappa.sel(predictor="last")[2])
    assert float(ds.window_path_length.sel(predictor="last")[3]) == 0
    assert not json.dumps(to_json(ds), allow_nan=False).count("Infinity")

    few = smooth(3)
    ds = analyze(str(stores.write_run(tmp_path / "few.zarr", few, exact=True)), ["ar(2)", "ar(8)"])
    said = json.loads(ds.attrs["warnings"])
    assert [w.split()[0] for w in said] == ["ar(8)"]
    G = few.reshape(3, -1).astype(float)
    expected = reference.path_length(G, [(0, 3)], "linear", reference.ar_weights(G, [(0, 3)], 2)).sum()
    assert float(ds.path_length.sel(predictor="ar(2)")) == pytest.approx(expected, rel=1e-4)


def test_a_predictor_of_one_s_own(exact_run):
    class Scaled:
        name, betas, lags = "scaled", (), 1

        def fit(self, evidence):
            M = evidence.moments(1)
            w = M[0, 1].sum() / M[1, 1].sum()
            return Fitted(M[0, 0] - 2 * w * M[0, 1] + w * w * M[1, 1], np.array([w]))

    path, G = exact_run
    ds = analyze(str(path), [Scaled(), "ar(1)", "last"], window=65)
    same = ds.sel(predictor="scaled")
    assert float(same.kappa) == pytest.approx(oracle_kappa_scaled(G), rel=1e-5)
    for name in ("kappa", "kappa_null", "window_kappa", "group_kappa"):
        np.testing.assert_allclose(same[name], ds[name].sel(predictor="ar(1)"), rtol=1e-4)


def oracle_kappa_scaled(G):
    past = np.vstack([np.zeros_like(G[:1]), G[:-1]])
    w = (G * past).sum() / np.square(past).sum()
    return np.square(G - w * past).sum() / np.square(G).sum()


def test_a_resumed_and_rewound_run_is_measured_across_the_seam_and_said(tmp_path):
    X = smooth(80)
    head = stores.header(exact=True)
    path = tmp_path / "r.zarr"
    stores.write_root(path, head)
    abandoned = X[:60].copy()
    abandoned[40:] += 5
    stores.write_segment(path, head, abandoned)
    stores.write_segment(path, head, X[40:], steps=np.arange(40, 80), number=1, parent_step=39)
    ds = analyze(str(path), ["last", "ema(0.9)"], window=20)
    whole = analyze(str(stores.write_run(tmp_path / "whole.zarr", X, exact=True)), ["last", "ema(0.9)"], window=20)
    for name in ("kappa", "window_kappa", "rank", "singular_value"):
        np.testing.assert_allclose(ds[name], whole[name], rtol=1e-6, atol=1e-6)
    assert any("20 rows abandoned" in w for w in json.loads(ds.attrs["warnings"]))


def test_results_do_not_depend_on_how_rows_are_cut_into_tasks(tmp_path, monkeypatch):
    from gradlog.analysis import blocks

    path = stores.write_run(tmp_path / "r.zarr", smooth(300), chunk=8)
    whole = analyze(str(path), window=64)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "BUFFER_BYTES", 1)
    seen = []
    pieces = analyze(str(path), window=64, scheduler="threads", progress=lambda *x: seen.append(x))
    serial = analyze(str(path), window=64, scheduler="synchronous")
    assert seen[0] == (0, 38)
    assert sorted(seen)[-1] == (38, 38)
    for name in ("kappa", "window_kappa", "group_kappa", "tail_energy", "signal", "kappa_low"):
        np.testing.assert_array_equal(pieces[name], serial[name])
        np.testing.assert_allclose(pieces[name], whole[name], rtol=2e-5, atol=1e-7)


def test_distributed_processes_agree_with_threads(tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    from gradlog.analysis import blocks

    path = stores.write_run(tmp_path / "r.zarr", smooth(20000, k=64), chunk=1024)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    here = analyze(str(path))
    with (
        LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        seen = []
        there = analyze(str(path), scheduler=client, progress=lambda *x: seen.append(x))
        assert seen[-1][0] == seen[-1][1] > 1
        addressed = analyze(str(path), scheduler=cluster.scheduler_address)
    for name in ("kappa", "kappa_low", "tail_energy", "group_kappa", "signal"):
        np.testing.assert_allclose(there[name], here[name], rtol=1e-12)
        np.testing.assert_allclose(addressed[name], here[name], rtol=1e-12)


def test_an_interrupted_analysis_leaves_no_thread_and_no_limit_behind(tmp_path, monkeypatch):
    from threadpoolctl import threadpool_info

    from gradlog.analysis import blocks

    path = str(stores.write_run(tmp_path / "r.zarr", smooth(4000, k=64), chunk=64))
    analyze(path, scheduler="threads")  # starts what the libraries keep for good
    before = set(threading.enumerate()), [x["num_threads"] for x in threadpool_info()]
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "BUFFER_BYTES", 1)
    seen = []

    def interrupt(done, total):
        seen.append(done)
        if done == 5:
            signal.raise_signal(signal.SIGINT)

    for scheduler in ("threads", "synchronous"):
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            analyze(path, scheduler=scheduler, progress=interrupt)
        assert 5 in seen
        assert max(seen) < 63 == -(-4000 // 64)
        assert set(threading.enumerate()) <= before[0]
        assert [x["num_threads"] for x in threadpool_info()] == before[1]
    assert analyze(path, scheduler="threads").sizes["group"] == 2


def test_blas_threads_come_back_whichever_thread_leaves_last():
    from threadpoolctl import threadpool_info

    from gradlog.analysis.blas import single_threaded

    before = [x["num_threads"] for x in threadpool_info()]
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with single_threaded():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=stay)
    with single_threaded():
        other.start()
        inside.wait(10)
        assert {x["num_threads"] for x in threadpool_info()} == {1}
    assert {x["num_threads"] for x in threadpool_info()} == {1}
    leave.set()
    other.join()
    assert [x["num_threads"] for x in threadpool_info()] == before


@pytest.mark.slow
# A client that is closed while it talks leaves its socket to the garbage collector, which may come in here.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_analysis_leaves_nothing_on_a_cluster(tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    from gradlog.analysis import blocks

    path = str(stores.write_run(tmp_path / "r.zarr", smooth(20000, k=64), chunk=256))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "BUFFER_BYTES", 1)

    def interrupt(done, total):
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    with (
        LocalCluster(1, threads_per_worker=2, processes=True, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        left = lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))  # noqa: E731
        held = lambda: sum(client.run(lambda dask_worker: len(dask_worker.data)).values())  # noqa: E731
        for scheduler in (client, cluster.scheduler_address):
            with pytest.raises(KeyboardInterrupt):
                analyze(path, scheduler=scheduler, progress=interrupt)
            gc.collect()
            deadline = time.monotonic() + 20
            while (left() or held()) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert (left(), held()) == (0, 0)
        assert len(client.scheduler_info()["workers"]) == 1
        assert float(analyze(path, ["last"], scheduler=client).rows) == 20000
    gc.collect()


@pytest.mark.parametrize("method", ["gram", "rows", "nystrom"])
def test_every_route_to_the_spectrum_agrees(tmp_path, method):
    X = smooth(90, groups=3, k=16, noise=0.02)
    path = stores.write_run(tmp_path / "r.zarr", X)
    G = X.reshape(90, -1).astype(np.float64)
    H = np.diff(G, axis=0)
    ds = analyze(str(path), ["last"], svd=method, window=30, burn_in=2)
    for e in ds.eps.values:
        truth = reference.rank_at(H[1:], e)
        assert ds.rank_low.sel(eps=e) <= truth <= ds.rank_high.sel(eps=e)
        assert truth == ds["rank"].sel(eps=e)
        for i in range(ds.sizes["window"]):
            here = ds.isel(window=i).sel(eps=e)
            assert here.window_rank_low <= reference.rank_at(H[1 + 30 * i : 31 + 30 * i], e) <= here.window_rank_high
    shuffled = 2 * np.cov(G[2:].T, bias=True)
    energies = np.linalg.eigvalsh(shuffled)[::-1]
    expected = int(np.searchsorted(np.cumsum(energies), 0.9 * energies.sum())) + 1
    assert ds.rank_null.sel(eps=0.1) == expected


def test_components_and_scores(exact_run):
    path, G = exact_run
    ds = analyze(str(path), ["last"], components=3, burn_in=4)
    H = np.diff(G, axis=0)[3:]
    _U, s, Vt = np.linalg.svd(H, full_matrices=False)
    V = ds.components.values.reshape(3, -1)
    np.testing.assert_allclose(np.abs(np.sum(V * Vt[:3], axis=1)), 1, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(ds.scores, axis=0), s[:3], rtol=1e-4)
    assert ds.increment_step.values.tolist() == list(range(4, 130))
    # Eckart and Young: what the best rank-3 predictor of the increments leaves is the tail of their spectrum
    left = np.square(H - H @ V.T @ V).sum() / np.square(H).sum()
    assert left == pytest.approx(float(ds.tail_energy[3]), rel=1e-4)
    other = np.linalg.qr(rng.standard_normal((H.shape[1], 3)))[0]
    assert np.square(H - H @ other @ other.T).sum() / np.square(H).sum() > 1.1 * left


def test_bounds_show_both_sides_and_their_inputs(exact_run):
    path, G = exact_run
    ds = analyze(str(path), ["last"], diameter=2.0)
    P = np.square(reference.errors(G, "last")).sum()
    right = 2 * (2.0 - 0.0) / (0.1 * 130) + P / 130
    assert float(ds.stationarity_right[0]) == pytest.approx(right, rel=1e-6)
    assert float(ds.stationarity_left[0]) == pytest.approx(np.square(G).sum() / 130)
    assert float(ds.regret_best[0]) == pytest.approx(2 * np.sqrt(2 * P), rel=1e-6)
    assert float(ds.regret_right[0]) == pytest.approx(4 / 0.1 + 0.05 * P, rel=1e-6)
    assert float(ds.regret_left[0]) == pytest.approx(np.linspace(2, 1, 130).sum())
    sources = json.loads(ds.attrs["bound_inputs"])["sources"]
    assert sources["eta"] == "logged"
    assert sources["lowest_loss"] == "assumed"


def test_json_follows_the_contract_and_has_no_nan(tmp_path):
    path = stores.write_run(tmp_path / "r.zarr", smooth(40, groups=1), chunk=8)
    ds = analyze(str(path), window=20)
    found = to_json(ds)
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert found["schema"] == "gradlog.analysis/1"
    assert set(found["kappa"]) == {"zero", "last", "ema(0.9)", "ema(0.99)", "trend", "ar(8)", "best-ema"}
    assert set(found["kappa"]["last"]) >= {"value", "low", "high", "null", "gain"}
    assert "beta" in found["kappa"]["best-ema"]
    assert set(found["rank"]) == {"0.1", "0.05", "0.01"}
    assert set(found["rank"]["0.1"]) >= {"value", "low", "high", "estimate", "estimate_low", "estimate_high"}
    assert found["rank"]["0.1"]["estimate"] is None
    assert set(found["rank_measures"]) >= {"stable", "participation", "entropy"}
    assert set(found["svd"]) >= {"method", "passes", "certificate"}
    assert len(found["windows"]) == 2
    assert set(found["by_group"]) == {"g0"}
    assert any("null" in w for w in found["warnings"])  # no loss, no learning rate were logged


@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_saves_and_comes_back_equal(exact_run, tmp_path, kind):
    ds = analyze(str(exact_run[0]), window=60, components=2)
    if kind == "nc":
        ds.to_netcdf(tmp_path / "a.nc")
        back = xr.load_dataset(tmp_path / "a.nc")
    else:
        ds.to_zarr(tmp_path / "a.zarr", consolidated=False)
        back = xr.open_zarr(tmp_path / "a.zarr", consolidated=False).load()
    xr.testing.assert_identical(back, ds)
    assert to_json(back) == to_json(ds)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"predictors": "ema(1.5)"}, ValueError, r"0 <= beta < 1"),
        ({"predictors": "median"}, ValueError, "unknown predictor"),
        ({"predictors": ["last", "last"]}, ValueError, "once each"),
        ({"eps": ()}, ValueError, "eps must be"),
        ({"eps": (1.5,)}, ValueError, "eps must be"),
        ({"svd": "qr"}, ValueError, "svd must be"),
        ({"kernel": "cuda"}, ValueError, "kernel must be"),
        ({"window": 1}, ValueError, "window must be"),
        ({"window": 500}, TooFewStepsError, "no whole window"),
        ({"burn_in": 129}, TooFewStepsError, "after burn_in=129"),
        ({"memory": "10M"}, MemoryLimitError, "exceeds the limit"),
        ({"memory": "much"}, ValueError, "expected a size such as"),
    ],
)
def test_refusals_say_what_is_wrong(exact_run, arguments, error, match):
    with pytest.raises(error, match=match):
        analyze(str(exact_run[0]), **arguments)


def test_parse_splits_outside_parentheses():
    assert [p.name for p in parse("ema(0.5), ar(2),last")] == ["ema(0.5)", "ar(2)", "last"]
