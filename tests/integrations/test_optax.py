"""The optax transformation under jit, scan and MultiSteps, against gradients that the test computes itself."""

# ruff: noqa: E402 - imports come after importorskip
from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
import jax.numpy as jnp

from gradlog.format.header import PARTIAL
from gradlog.integrations.jax_sketch import JaxSketch
from gradlog.integrations.optax import log_gradients, named_leaves, open_run, record, sketcher
from gradlog.sketching.fold_hash import FoldHash


def init():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "body": {"kernel": jax.random.normal(keys[0], (30, 40)), "bias": jnp.zeros(40)},
        "head": [jax.random.normal(keys[1], (40, 2)), jnp.zeros(())],
    }


def loss_of(params, x):
    hidden = jnp.tanh(x @ params["body"]["kernel"] + params["body"]["bias"])
    return jnp.mean((hidden @ params["head"][0] + params["head"][1]) ** 2)


def batch(t):
    return jax.random.normal(jax.random.key(100 + t), (8, 30))


def named(grads):
    return {name: np.asarray(g) for name, g in named_leaves(grads)}


def test_jit(tmp_path, recorded):
    params = init()
    log = open_run(tmp_path / "r.zarr", params, k=24, on_error="raise")
    tx = optax.chain(optax.clip_by_global_norm(0.1), log_gradients(log), optax.adam(1e-2))
    state = tx.init(params)

    @jax.jit
    def step(params, state, x):
        loss, grads = jax.value_and_grad(loss_of)(params, x)
        updates, state = tx.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state, loss, grads

    seen, losses = [], []
    for t in range(5):
        params, state, loss, grads = step(params, state, batch(t))
        clipped, _ = optax.clip_by_global_norm(0.1).update(grads, optax.EmptyState())
        seen.append(named(clipped))
        losses.append(float(loss))
    log.close()
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == list(range(5))
    assert run.run.info["groups"] == ["body", "head"]
    run.expect(seen)
    np.testing.assert_allclose(run.scalars["loss"], losses, rtol=1e-6)


def test_scan(tmp_path, recorded):
    params = init()
    log = open_run(tmp_path / "r.zarr", params, k=24, on_error="raise")
    tx = optax.chain(log_gradients(log), optax.sgd(1e-2))

    def step(carry, x):
        params, state = carry
        grads = jax.grad(loss_of)(params, x)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), grads

    xs = jnp.stack([batch(t) for t in range(6)])
    _, grads = jax.jit(lambda c: jax.lax.scan(step, c, xs))((params, tx.init(params)))
    log.close()
    recorded(tmp_path / "r.zarr").expect([named(jax.tree.map(lambda g, t=t: g[t], grads)) for t in range(6)])


def test_multisteps(tmp_path, recorded):
    params = init()
    log = open_run(tmp_path / "r.zarr", params, k=24, on_error="raise")
    tx = optax.MultiSteps(optax.chain(log_gradients(log, accumulate=4), optax.sgd(1e-2)), 4)
    state = tx.init(params)
    step = jax.jit(lambda g, s, p: tx.update(g, s, p))
    micro, seen = [], []
    for t in range(10):  # ends within an update, which leaves no row
        grads = jax.grad(loss_of)(params, batch(t))
        micro.append(grads)
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        if t % 4 == 3:
            seen.append(named(jax.tree.map(lambda *g: sum(g) / 4, *micro)))
            micro = []
    log.close()
    recorded(tmp_path / "r.zarr").expect(seen)


@pytest.mark.filterwarnings("ignore::gradlog.errors.GradlogWarning")
def test_multisteps_without_accumulate_says_what_to_do(tmp_path):
    params = init()
    log = open_run(tmp_path / "r.zarr", params, k=24)
    tx = optax.MultiSteps(log_gradients(log), 2)
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(params, state, params)
    jax.effects_barrier()
    assert "accumulate=k" in log.reason
    log.close()


def test_pure_function(tmp_path, recorded):
    params = init()
    log = open_run(tmp_path / "r.zarr", params, k=24, on_error="raise")
    sketch = sketcher(log)
    step = jax.jit(lambda p, x: (lambda g: (g, sketch(g)))(jax.grad(loss_of)(p, x)))
    seen = []
    for t in range(3):
        grads, row = step(params, batch(t))
        record(log, row, loss=0.5)
        seen.append(named(grads))
    log.close()
    recorded(tmp_path / "r.zarr").expect(seen)


def test_resume_through_the_optimizer_state(tmp_path, recorded):
    params = init()
    seen = []

    def train(state, steps, mode):
        log = open_run(tmp_path / "r.zarr", params, k=24, on_error="raise", mode=mode)
        tx = optax.chain(log_gradients(log), optax.adam(1e-2))
        state = tx.init(params) if state is None else state
        update = jax.jit(tx.update)
        states = []
        for _ in range(steps):
            grads = jax.grad(loss_of)(params, batch(len(seen)))
            seen.append(named(grads))
            _, state = update(grads, state, params)
            states.append(state)
        log.close()
        return states

    checkpoint = train(None, 4, "w-")[2]
    train(checkpoint, 2, "a")
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [0, 1, 2, 3, 4]
    run.expect(seen[:3] + seen[4:])


def test_disabled(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADLOG_DISABLED", "1")
    params = init()
    tx = log_gradients(open_run(tmp_path / "r.zarr", params))
    updates, state = jax.jit(tx.update)(params, tx.init(params))
    assert int(state.count) == 1
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), updates, params))


def test_sketch_of_many_rows_equals_numpy(tmp_path):
    """Beyond UNROLL rows the fold is a loop; complex and half precision leaves."""
    rng = np.random.default_rng(0)
    params = {
        "big": jnp.asarray(rng.normal(size=(400, 1000)), jnp.float32),
        "wave": jnp.asarray(rng.normal(size=50) + 1j * rng.normal(size=50), jnp.complex64),
        "half": jnp.asarray(rng.normal(size=70), jnp.bfloat16),
    }
    log = open_run(tmp_path / "r.zarr", params, k=64, groups="all", on_error="raise")
    row = jax.jit(JaxSketch(log.header))([params[t.name] for t in log.header.tensors])
    S = FoldHash(64)
    wave = np.asarray(params["wave"]).view(np.float32)
    flats = {"big": np.asarray(params["big"]).ravel(), "wave": wave, "half": np.asarray(params["half"], np.float32)}
    expected = sum(S.sketch(x, n).astype(float) for n, x in flats.items())
    np.testing.assert_allclose(row.sketch[0], expected, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(row.norm2[0], sum(np.square(x.astype(float)).sum() for x in flats.values()), rtol=2e-6)
    log.close()


def test_wrong_tree_is_told_at_trace_time(tmp_path):
    log = open_run(tmp_path / "r.zarr", init(), k=8, on_error="raise")
    with pytest.raises(Exception, match="is no parameter of this run"):
        jax.jit(sketcher(log))({"other": jnp.ones(3)})
    log.close()


@pytest.mark.filterwarnings("ignore::gradlog.errors.GradlogWarning")
@pytest.mark.parametrize("wrong", [{"other": jnp.ones(3)}, {"w": jnp.ones(4)}], ids=["name", "shape"])
def test_gradients_that_do_not_fit_leave_the_step_as_it_is(tmp_path, wrong):
    """Nothing of ours raises into a compiled step: neither while it is traced nor while it runs."""
    logs = [open_run(tmp_path / f"{i}.zarr", {"w": jnp.ones(3)}, k=8) for i in range(2)]
    tx, sketch = optax.chain(log_gradients(logs[0]), optax.sgd(0.5)), sketcher(logs[1])
    updates, _ = jax.jit(tx.update)(wrong, tx.init(wrong))
    for name, value in wrong.items():
        np.testing.assert_array_equal(updates[name], -0.5 * value)
    record(logs[1], jax.jit(sketch)(wrong))
    for log in logs:
        assert "GradientError" in log.reason
        log.close()


def test_flax_nnx(tmp_path, recorded):
    """Names of the state, of the model's own parameters and of the gradients are the same."""
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self):
            self.body = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(6, 1, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.head(jnp.tanh(self.body(x)))

    model = Net()
    log = open_run(tmp_path / "r.zarr", nnx.state(model, nnx.Param), k=16, on_error="raise")
    optimizer = nnx.Optimizer(model, optax.chain(log_gradients(log), optax.sgd(0.1)), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x):
        _, grads = nnx.value_and_grad(lambda m: (m(x) ** 2).mean())(model)
        optimizer.update(model, grads)
        return grads

    seen = [named(step(model, optimizer, jnp.full((2, 4), 1.0 + t))) for t in range(3)]
    jax.effects_barrier()
    log.close()
    run = recorded(tmp_path / "r.zarr")
    assert sorted(seen[0]) == ["body.bias", "body.kernel", "head.bias", "head.kernel"]
    assert run.run.info["groups"] == ["body", "head"]
    run.expect(seen)


def test_masked_leaves_flag_the_row(tmp_path, recorded):
    params = init()
    log = open_run(tmp_path / "r.zarr", params, k=24, on_error="raise")
    body = {"body": True, "head": False}
    tx = optax.masked(log_gradients(log), body)
    grads = jax.grad(loss_of)(params, batch(0))
    jax.jit(tx.update)(grads, tx.init(params), params)
    log.close()
    run = recorded(tmp_path / "r.zarr")
    run.expect([{n: g if n.startswith("body") else 0 * g for n, g in named(grads).items()}])
    assert run.flags == [PARTIAL]


def test_a_loss_that_is_no_number_stops_nothing(tmp_path, recorded):
    params = init()
    log = open_run(tmp_path / "r.zarr", params, k=24, on_error="raise")
    tx = log_gradients(log)
    jax.jit(lambda g, s, v: tx.update(g, s, value=v))(params, tx.init(params), jnp.ones(3))
    log.close()
    run = recorded(tmp_path / "r.zarr")
    assert run.steps == [0]
    assert "loss" not in run.scalars


def test_optax_passes_over_what_is_not_chosen(tmp_path, recorded):
    params = {"emb": jnp.zeros(30), "head": jnp.zeros(4)}
    with open_run(tmp_path / "r.zarr", params, k=8, exclude="emb", on_error="raise") as log:
        function = jax.jit(sketcher(log))
        grads = [{"emb": jnp.ones(30) * t, "head": jnp.arange(4.0) + t} for t in range(3)]
        for g in grads:
            record(log, function(g))
    recorded(tmp_path / "r.zarr").expect([{"head": np.asarray(g["head"])} for g in grads])
