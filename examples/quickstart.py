"""Record a small numpy training loop, then ask how predictable its gradients were.

python examples/quickstart.py [RUN.zarr]
"""

import sys

import numpy as np

import gradlog
from gradlog.analysis import analyze, open_run

path = sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart.zarr"
rng = np.random.default_rng(0)
X = rng.standard_normal((2000, 50))
y = X @ rng.standard_normal(50) + 0.5 * rng.standard_normal(2000)
params = {"weight": np.zeros(50), "bias": np.zeros(1)}

with gradlog.open(path, like=params, k="exact", mode="w", notes={"batch_size": 32}) as log:
    for _step in range(500):
        rows = rng.integers(0, 2000, 32)
        error = X[rows] @ params["weight"] + params["bias"] - y[rows]
        grads = {"weight": X[rows].T @ error / 32, "bias": np.array([error.mean()])}
        log.step(grads, loss=float(np.mean(error**2)), lr=0.01)
        for name, g in grads.items():
            params[name] -= 0.01 * g

result = analyze(open_run(path))
print(result["kappa"].to_series().to_string())
