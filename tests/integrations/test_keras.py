"""Keras 3 on each backend, in a process of its own: the backend is chosen at import."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("keras") is None:
    pytest.skip("needs keras", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
import numpy as np
import keras
from keras.layers import Dense, Input
from gradlog.integrations.keras import name_of, watch
backend, accumulate, clip, folder = sys.argv[1], int(sys.argv[2]) or None, float(sys.argv[3]) or None, sys.argv[4]
assert keras.backend.backend() == backend
keras.utils.set_random_seed(0)
model = keras.Sequential([Input((6,)), Dense(50, activation="tanh", name="body"), Dense(2, name="head")])
# Plain SGD at rate 1: the change of the variables is the consumed gradient.
model.compile(keras.optimizers.SGD(1.0, gradient_accumulation_steps=accumulate, global_clipnorm=clip), "mse")
x, y = np.random.randn(32, 6).astype("float32"), np.random.randn(32, 2).astype("float32")
log = watch(model, folder + "/r.zarr", k=16, on_error="raise")
rows = []

class Spy(keras.callbacks.Callback):
    def values(self):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        return {name_of(v, model): np.array(keras.ops.convert_to_numpy(v.value)) for v in model.trainable_variables}
    def on_train_batch_begin(self, batch, logs=None):
        self.last = self.values()
    def on_train_batch_end(self, batch, logs=None):
        now = self.values()
        change = {n: self.last[n] - now[n] for n in now}
        if any(c.any() for c in change.values()):
            rows.append(change)

model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0, callbacks=[Spy()])
log.close()
assert "_backend_update_step" not in vars(model.optimizer)
model.fit(x, y, batch_size=4, epochs=1, verbose=0)  # unwatched again
np.savez(folder + "/rows.npz", **{f"{i}|{n}": c for i, row in enumerate(rows) for n, c in row.items()})
"""


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize(("accumulate", "clip"), [(0, 0.0), (2, 0.05)])
def test_fit(tmp_path, recorded, backend, accumulate, clip):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, backend, str(accumulate), str(clip), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    stored = np.load(tmp_path / "rows.npz")
    rows: list = [{} for _ in range(1 + max(int(key.partition("|")[0]) for key in stored))]
    for key in stored:
        i, _, name = key.partition("|")
        rows[int(i)][name] = stored[key]
    assert len(rows) == 8 // (accumulate or 1)
    run = recorded(tmp_path / "r.zarr")
    run.expect(rows, rtol=1e-3 if clip else 1e-4)
    assert run.steps == list(range(len(rows)))
    np.testing.assert_array_equal(run.scalars["lr"], 1.0)
    assert run.run.info["groups"] == ["body", "head"]
