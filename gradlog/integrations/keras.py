"""Keras 3 on its torch and JAX backends: ``watch(model, path)`` before ``fit``.

Keras hands its optimizer gradients that it then accumulates and clips; the place where the outcome meets the variables
is the optimizer's update step, and that is what is wrapped here: one row an update, with the consumed gradient.
"""

from __future__ import annotations

import os
from typing import Any

from gradlog.errors import UnsupportedError
from gradlog.integrations import missing

try:
    import keras
except ImportError as error:
    raise missing("keras", error) from error

import numpy as np

from gradlog.logger import Logger
from gradlog.recording import Row
from gradlog.schema import RunHeader

STEP = "_backend_update_step"


def watch(model: Any, path: str | os.PathLike[str], **options: Any) -> Logger:
    """Record every update of a compiled model.

    Parameters
    ----------
    model : keras.Model
        Built and compiled; call this before ``fit``.
    path : str or path-like
        The run's store.
    **options
        As for :func:`gradlog.open`. A model and optimizer restored from a Keras checkpoint continue their run
        with ``mode="a"``: rows are numbered by ``optimizer.iterations``.

    Returns
    -------
    Logger
        ``close()`` puts the optimizer back as it was.

    Raises
    ------
    UnsupportedError
        The model is not built or compiled, its optimizer is not of Keras 3, or the backend is neither torch nor JAX.

    Examples
    --------
    >>> with watch(model, "run.zarr"):                                       # doctest: +SKIP
    ...     model.fit(x, y, epochs=3)
    """
    from gradlog import open as open_run
    from gradlog._open import disabled

    if disabled():
        return Logger(None)
    backend = keras.backend.backend()
    if backend not in ("torch", "jax"):
        raise UnsupportedError(f"Keras on {backend}: only its torch and JAX backends can be recorded")
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer is None or not hasattr(optimizer, STEP):
        raise UnsupportedError(f"{type(model).__name__} has no Keras 3 optimizer: call compile() first")
    if not model.built:
        raise UnsupportedError("the model has no variables yet: build it, or call it once, before watch()")
    stage, what = options.pop("stage", "consumed"), options.pop("what", "gradient")
    if (stage, what) != ("consumed", "gradient"):
        raise UnsupportedError(f"stage={stage!r}, what={what!r}: in Keras only the consumed gradient can be recorded")
    variables = list(model.trainable_variables)
    logger = open_run(path, like=[(name_of(v, model), _like(v)) for v in variables], **options)
    if logger.header is None:
        return logger
    original, outer = getattr(optimizer, STEP), optimizer.__dict__.get(STEP)
    see = (_Torch if backend == "torch" else _Jax)(logger, logger.header, optimizer, variables)

    def step(grads: Any, trainable_variables: Any, learning_rate: Any) -> Any:
        see(grads, trainable_variables, learning_rate)
        return original(grads, trainable_variables, learning_rate)

    def restore() -> None:
        if optimizer.__dict__.get(STEP) is step:  # else another recording wraps this one, which only calls through now
            optimizer.__dict__.pop(STEP)
            if outer is not None:
                optimizer.__dict__[STEP] = outer
        model.train_function = None

    optimizer.__dict__[STEP] = step  # not setattr: Keras tracks what is assigned
    model.train_function = None  # a function that is compiled already would go on without the wrapper
    logger.on_close(restore, drain=see.drain)
    return logger


def name_of(variable: Any, model: Any) -> str:
    """Dotted path of a variable inside its model, such as ``dense.kernel``; Keras numbers models anew each time."""
    return str(variable.path).removeprefix(f"{model.name}/").replace("/", ".")


def _like(variable: Any) -> Any:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return np.empty(variable.shape, "float32" if dtype == "bfloat16" else dtype)


class _Seen:
    def __init__(self, logger: Logger, header: RunHeader, optimizer: Any, variables: list[Any]) -> None:
        self._logger, self._optimizer, self._variables = logger, optimizer, variables
        self._accumulate = optimizer.gradient_accumulation_steps or 1
        self._index = {id(v): i for i, v in enumerate(variables)}

    def _ordered(self, grads: Any, variables: Any) -> list[Any]:
        """Gradients in the run's order; None where Keras left a variable out."""
        found: list[Any] = [None] * len(self._variables)
        for g, v in zip(grads, variables, strict=True):
            found[self._index[id(v)]] = g
        return found

    def drain(self) -> None:
        """Wait for rows that are under way."""


class _Torch(_Seen):
    """Eager: the update step runs for real updates only."""

    def __init__(self, logger: Logger, header: RunHeader, optimizer: Any, variables: list[Any]) -> None:
        super().__init__(logger, header, optimizer, variables)
        from gradlog.integrations.torch_measure import measure_for

        self._measure = measure_for(header, [v.value for v in variables])

    def __call__(self, grads: Any, variables: Any, rate: Any) -> None:
        def row() -> Row:
            fill = self._measure.lazy(self._ordered(grads, variables))
            return Row(fill, {"lr": float(rate)}, later=self._measure.later)

        number = None
        with self._logger.guarded():
            number = int(self._optimizer._iterations) // self._accumulate
        if number is not None:
            self._logger.record(row, number)


class _Jax(_Seen):
    """Traced: the update step is computed at every micro-step, and its outcome dropped in all but the last."""

    def __init__(self, logger: Logger, header: RunHeader, optimizer: Any, variables: list[Any]) -> None:
        super().__init__(logger, header, optimizer, variables)
        from gradlog.integrations.jax_sketch import JaxSketch, filled

        self._sketch, self._fill = JaxSketch(header), filled

    def __call__(self, grads: Any, variables: Any, rate: Any) -> None:
        from jax.experimental import io_callback

        with self._logger.guarded():  # tracing: what goes wrong here must leave the step as it is
            row = self._sketch(self._ordered(grads, variables))
            rate = keras.ops.convert_to_tensor(rate)
            io_callback(self._receive, None, self._optimizer._iterations.value, row, rate, ordered=True)

    def _receive(self, iteration: Any, sketched: Any, rate: Any) -> None:
        ready = False
        with self._logger.guarded():
            number, micro = divmod(int(iteration), self._accumulate)
            ready = micro == self._accumulate - 1
        if ready:
            self._logger.record(lambda: Row(self._fill(sketched), {"lr": float(rate)}), number)

    def drain(self) -> None:
        """Wait for callbacks that are under way."""
        import jax

        jax.effects_barrier()
