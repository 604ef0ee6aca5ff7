"""Keras 3 on each backend, in a process of its own: the backend is chosen at import."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradlog.format.header import PARTIAL

if importlib.util.find_spec("keras") is None:
    pytest.skip("keras is not in this environment; make integrations runs these where it is", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]

COMMON = """
import sys
import numpy as np
import keras
from keras.layers import Dense, Input
from gradlog.integrations.keras import name_of, watch
backend, folder, *options = sys.argv[1:]
assert keras.backend.backend() == backend
rows = []

def build(**optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([Input((6,)), Dense(50, activation="tanh", name="body"), Dense(2, name="head")])
    # Plain SGD at rate 1: the change of the variables is the consumed gradient.
    model.compile(keras.optimizers.SGD(1.0, **optimizer), "mse")
    return model

class Spy(keras.callbacks.Callback):
    def values(self):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        return {name_of(v, self.model): np.array(keras.ops.convert_to_numpy(v)) for v in self.model.trainable_variables}
    def on_train_batch_begin(self, batch, logs=None):
        self.last = self.values()
    def on_train_batch_end(self, batch, logs=None):
        now = self.values()
        change = {n: self.last[n] - now[n] for n in now}
        if any(c.any() for c in change.values()):
            rows.append(change)

def save():
    np.savez(folder + "/rows.npz", **{f"{i}|{n}": c for i, row in enumerate(rows) for n, c in row.items()})
"""

FIT = """
model = build(gradient_accumulation_steps=int(options[0]) or None, global_clipnorm=float(options[1]) or None)
x, y = np.random.randn(32, 6).astype("float32"), np.random.randn(32, 2).astype("float32")
log = watch(model, folder + "/r.zarr", k=16, on_error="raise")
model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0, callbacks=[Spy()])
log.close()
assert "_backend_update_step" not in vars(model.optimizer)
save()
model.fit(x, y, batch_size=4, epochs=1, verbose=0)  # unwatched again
"""

TWICE = """
model = build()
x, y = np.random.randn(32, 6).astype("float32"), np.random.randn(32, 2).astype("float32")
first = watch(model, folder + "/first.zarr", k=16, on_error="raise")
log = watch(model, folder + "/r.zarr", k=16, on_error="raise")
fit = lambda: model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=[Spy()])
fit()
first.close()
fit()
log.close()
save()
"""

RESUME = """
class Fall(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 7:
            raise KeyboardInterrupt

def train(*callbacks):
    model = build()
    x, y = np.random.randn(16, 6).astype("float32"), np.random.randn(16, 2).astype("float32")
    log = watch(model, folder + "/r.zarr", k=16, on_error="raise", mode="a")
    backup = keras.callbacks.BackupAndRestore(folder + "/backup")
    try:
        model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=[backup, Spy(), *callbacks])
    except KeyboardInterrupt:
        pass
    log.close()

train(Fall())
assert len(rows) == 7
del rows[4:]
train()
save()
"""


RECOMPILED = """
model = build()
model.layers[0].trainable = False
model.compile(keras.optimizers.SGD(1.0), "mse")
x, y = np.random.randn(32, 6).astype("float32"), np.random.randn(32, 2).astype("float32")
log = watch(model, folder + "/r.zarr", k=16, on_error="raise")
compile_of_its_class = model.compile.func
fit = lambda: model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=[Spy()])
fit()
model.layers[0].trainable = True  # as Keras' guide to transfer learning does
model.compile(keras.optimizers.SGD(0.5), "mse")
fit()
model.layers[0].trainable = False
model.compile(keras.optimizers.SGD(1.0), "mse")
fit()
log.close()
assert not {"compile", "fit"} & vars(model).keys() and "_backend_update_step" not in vars(model.optimizer)
model.compile("sgd", "mse")
save()
with watch(model, folder + "/r.zarr", k=16, on_error="raise"):  # the cell, run again
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
"""


def run(folder, script, backend, *options):
    """Run a script under Keras; give what it saw change."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not in this environment; make integrations runs this where it is")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend}
    own = ["ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"]  # Keras's variables
    warnings = [word for rule in ["error", *own] for word in ("-W", rule)]
    command = [sys.executable, *warnings, "-c", COMMON + script, backend, str(folder), *map(str, options)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    stored = np.load(folder / "rows.npz")
    rows: list = [{} for _ in range(1 + max(int(key.partition("|")[0]) for key in stored))]
    for key in stored:
        i, _, name = key.partition("|")
        rows[int(i)][name] = stored[key]
    return rows


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize(("accumulate", "clip"), [(0, 0.0), (2, 0.05)])
def test_fit(tmp_path, recorded, backend, accumulate, clip):
    rows = run(tmp_path, FIT, backend, accumulate, clip)
    assert len(rows) == 8 // (accumulate or 1)
    found = recorded(tmp_path / "r.zarr")
    found.expect(rows, rtol=1e-3 if clip else 1e-4)
    assert found.steps == list(range(len(rows)))
    np.testing.assert_array_equal(found.scalars["lr"], 1.0)
    assert found.run.info["groups"] == ["body", "head"]


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_resume_through_backup_and_restore(tmp_path, recorded, backend):
    """An interrupted fit is restored at the end of its first epoch, step 4, and goes on there."""
    rows = run(tmp_path, RESUME, backend)
    found = recorded(tmp_path / "r.zarr")
    assert found.steps == list(range(12))
    found.expect(rows, rtol=1e-4)
    assert found.scalars["epoch"].tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_one_of_two_recordings_ends_alone(tmp_path, recorded, backend):
    rows = run(tmp_path, TWICE, backend)
    assert len(rows) == 8
    recorded(tmp_path / "r.zarr").expect(rows, rtol=1e-4)
    recorded(tmp_path / "first.zarr").expect(rows[:4], rtol=1e-4)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_model_that_is_compiled_anew_is_recorded_on(tmp_path, recorded, backend):
    """A new optimizer counts from 0, the run does not; variables that were unfrozen join, frozen ones are absent."""
    rows = run(tmp_path, RECOMPILED, backend)
    found = recorded(tmp_path / "r.zarr")
    assert found.steps == list(range(12))
    assert [bool(flag & PARTIAL) for flag in found.flags[8:]] == [True] * 4
    np.testing.assert_array_equal(found.scalars["lr"], [1.0] * 4 + [0.5] * 4 + [1.0] * 4)
    for i, row in enumerate(rows):
        expected = sum(np.square(change.astype(float)).sum() for change in row.values()) / found.scalars["lr"][i] ** 2
        np.testing.assert_allclose(found.norm2[i].sum(), expected, rtol=1e-3)
    assert {t.name for t in found.header.tensors} == {"head.kernel", "head.bias"}
    assert found.run.info["joined"][0]["step"] == 4
    assert found.run.info["provenance"]["optimizer"]["class"].endswith("SGD")
    assert recorded(tmp_path / "r-2.zarr").steps == [0, 1, 2, 3]


def test_what_cannot_be_recorded_is_refused(tmp_path):
    script = """
from gradlog.errors import UnsupportedError
def refused(model, **options):
    try:
        watch(model, folder + "/r.zarr", **options)
    except UnsupportedError as error:
        print(error)
refused(keras.Sequential([Input((6,)), Dense(2)]))
unbuilt = keras.Sequential([Dense(2)])
unbuilt.compile("sgd", "mse")
refused(unbuilt)
refused(build(), stage="preclip")
rows.append({"x": np.zeros(1)})
save()
import os
assert not os.path.exists(folder + "/r.zarr")
"""
    run(tmp_path, script, "torch")
