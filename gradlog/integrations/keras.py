"""Keras 3 on its torch and JAX backends: ``watch(model, path)`` before ``fit``.

Keras hands its optimizer gradients, which the optimizer then accumulates and clips. The outcome meets the variables in
the optimizer's update step. That step is wrapped here: one row per update, with the consumed gradient.
"""

from __future__ import annotations

import abc
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, Unpack

from gradlog.errors import UnsupportedError
from gradlog.integrations import missing
from gradlog.integrations.hooks import Hooks, Row, described

try:
    import keras
except ImportError as error:
    raise missing("keras", error) from error

import numpy as np
from numpy.typing import NDArray

from gradlog.recorder.logger import Logger
from gradlog.recorder.options import OptionKeywords, RecordingOptions

if TYPE_CHECKING:
    from gradlog.integrations.jax_sketch import Sketched
    from gradlog.recorder.recorder import Recorder

Tensors: TypeAlias = "Sequence[keras.KerasTensor]"
"""The backend's own tensors; on JAX, while a step is traced, what stands for them."""
Variables: TypeAlias = "Sequence[keras.Variable]"
Number: TypeAlias = "keras.KerasTensor | float"
Function = Callable[..., object]

STEP = "_backend_update_step"


def watch(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    options: RecordingOptions | None = None,
    **keywords: Unpack[OptionKeywords],
) -> Logger:
    """Record every update of a compiled model.

    Parameters
    ----------
    model : keras.Model
        Built and compiled; call this before ``fit``. When it is compiled anew, the run goes on with the new optimizer;
        variables that were unfrozen or added join it.
    path : str or path-like
        The run's store.
    options, **keywords
        As for :func:`gradlog.open`, with ``mode="new"`` as the default. A model and optimizer restored from a Keras
        checkpoint continue their run with ``mode="a"``: rows are numbered by ``optimizer.iterations``.

    Returns
    -------
    Logger
        ``close()`` puts model and optimizer back as they were.

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
    from gradlog.recorder.api import disabled

    if disabled():
        return Logger(None)
    if keras.backend.backend() not in ("torch", "jax"):
        raise UnsupportedError(f"Keras on {keras.backend.backend()}: only its torch and JAX backends can be recorded")
    optimizer = _optimizer(model)
    if not model.built:
        raise UnsupportedError("the model has no variables yet: build it, or call it once, before watch()")
    told = described(optimizer, optimizer.get_config())
    chosen = RecordingOptions.of(options, keywords).filled(mode="new", optimizer=told)
    if (chosen.stage, chosen.what) != ("consumed", "gradient"):
        raise UnsupportedError(
            f"stage={chosen.stage!r}, what={chosen.what!r}: in Keras only the consumed gradient can be recorded"
        )
    logger = open_run(path, like=[(name_of(v, model), _like(v)) for v in model.trainable_variables], options=chosen)
    if logger.header is not None:
        _Watch(model, logger.recorder)
    return logger


def _optimizer(model: keras.Model) -> keras.Optimizer:
    """Return the optimizer that a compiled model updates its variables with."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer is None or not hasattr(optimizer, STEP):
        raise UnsupportedError(f"{type(model).__name__} has no Keras 3 optimizer: call compile() first")
    return optimizer


class _Watch(Hooks):
    """A wrapper around the update step of a model's optimizer, which goes to the next one when it is compiled anew."""

    def __init__(self, model: keras.Model, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._model = model
        self._variables: dict[str, keras.Variable] = {}
        self._updates: _Updates | None = None
        self.epoch: int | None = None
        self._wrap()
        self._offs = [_replace(model, "compile", self._compiling), _replace(model, "fit", self._fitting)]

    def remove(self) -> None:
        """Put model and optimizer back as they were."""
        self._off()
        for off in self._offs:
            off()
        self._updates = None
        self._model.train_function = None

    def drain(self) -> None:
        """Wait for rows that are under way."""
        if isinstance(self._updates, _Jax):
            import jax

            jax.effects_barrier()

    def _compiling(self, original: Function, *args: object, **kwargs: object) -> object:
        result = original(*args, **kwargs)
        if self.recorder.active:
            with self.recorder.guarded():
                self.drain()
                self._off()
                self._wrap()
        return result

    def _fitting(self, original: Function, *args: object, **kwargs: object) -> object:
        """Be told of the epochs by a callback, where ``fit`` is called in a way that takes one."""
        try:
            call = inspect.signature(original).bind(*args, **kwargs)
        except TypeError:  # which the call raises, too
            return original(*args, **kwargs)
        given = call.arguments.get("callbacks")
        if "callbacks" in call.signature.parameters and not isinstance(given, keras.callbacks.CallbackList):
            call.arguments["callbacks"] = [*([] if given is None else keras.tree.flatten(given)), _Epochs(self)]
        try:
            return original(*call.args, **call.kwargs)
        finally:
            self.epoch = None

    def begin_epoch(self, epoch: int) -> None:
        """Note the epoch of the rows to come."""
        with self.recorder.guarded():
            self.drain()
            self.epoch = epoch

    def _wrap(self) -> None:
        """Wrap the optimizer that the model has now; variables that it trains and the run does not have join it."""
        optimizer, model = _optimizer(self._model), self._model
        trained = {name_of(v, model): v for v in model.trainable_variables}
        known = {t.name for t in self.header.tensors}
        if new := [(name, _like(v)) for name, v in trained.items() if name not in known]:
            self.join(new)
        self._variables.update(trained)
        ordered = [self._variables[t.name] for t in self.header.tensors]
        kind = _Torch if keras.backend.backend() == "torch" else _Jax
        first = None if self._updates is None or self._updates.last is None else self._updates.last + 1
        updates = self._updates = kind(self, optimizer, ordered, first)

        def step(original: Function, grads: Tensors, variables: Variables, rate: Number) -> object:
            if self._updates is updates:
                updates(grads, variables, rate)
            return original(grads, variables, rate)

        self._off = _replace(optimizer, STEP, step)
        model.train_function = None  # a function that is compiled already would go on without the wrapper


def _replace(owner: object, name: str, wrapper: Function) -> Callable[[], None]:
    """Wrap a method of one object; what is returned takes the wrapper off.

    In the object's dictionary, since Keras tracks what is assigned. Where another wrapper is around this one, it stays.
    """
    original, outer = getattr(owner, name), owner.__dict__.get(name)
    wrapped = functools.partial(wrapper, original)
    owner.__dict__[name] = wrapped

    def off() -> None:
        if owner.__dict__.get(name) is wrapped:
            owner.__dict__.pop(name)
            if outer is not None:
                owner.__dict__[name] = outer

    return off


def name_of(variable: keras.Variable, model: keras.Model) -> str:
    """Dotted path of a variable inside its model, such as ``dense.kernel``; Keras numbers models anew each time."""
    return str(variable.path).removeprefix(f"{model.name}/").replace("/", ".")


def _like(variable: keras.Variable) -> NDArray[np.generic]:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return np.empty(variable.shape, "float32" if dtype == "bfloat16" else dtype)


class _Epochs(keras.callbacks.Callback):  # type: ignore[misc]  # Any where the framework is not installed
    """Tells a watch which epoch begins."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, object] | None = None) -> None:
        """Tell it."""
        self._watch.begin_epoch(epoch)


class _Updates(abc.ABC):
    """Updates of one optimizer. ``first``: number of the next one, where an earlier optimizer made those before it."""

    def __init__(
        self, watch: _Watch, optimizer: keras.Optimizer, variables: list[keras.Variable], first: int | None
    ) -> None:
        self._watch, self._recorder, self._optimizer, self._variables = watch, watch.recorder, optimizer, variables
        self._accumulate = optimizer.gradient_accumulation_steps or 1
        self._index = {id(v): i for i, v in enumerate(variables)}
        self._base = 0 if first is None else first - int(optimizer.iterations)
        self.last = None if first is None else first - 1
        self._prepare(watch)

    @abc.abstractmethod
    def _prepare(self, hooks: Hooks) -> None: ...

    @abc.abstractmethod
    def __call__(self, grads: Tensors, variables: Variables, rate: Number) -> None: ...

    def _scalars(self, rate: Number) -> dict[str, float]:
        epoch = self._watch.epoch
        return {"lr": float(rate)} if epoch is None else {"lr": float(rate), "epoch": epoch}

    def _record(self, number: int, row: Callable[[], Row]) -> None:
        self.last = self._base + number
        self._recorder.record(row, self.last)

    def _ordered(self, grads: Tensors, variables: Variables) -> list[keras.KerasTensor | None]:
        """Gradients of the run's variables, in its order; None where Keras left one out."""
        found: list[keras.KerasTensor | None] = [None] * len(self._variables)
        for g, v in zip(grads, variables, strict=True):
            if id(v) in self._index:
                found[self._index[id(v)]] = g
        return found


class _Torch(_Updates):
    """Eager: the update step runs for real updates only."""

    def _prepare(self, hooks: Hooks) -> None:
        from gradlog.integrations.torch.sketching.sketchers import measure_for

        self._measure = measure_for(self._recorder, hooks.header, [v.value for v in self._variables])

    def __call__(self, grads: Tensors, variables: Variables, rate: Number) -> None:
        def row() -> Row:
            fill = self._measure.lazy(self._ordered(grads, variables))
            return Row(fill, self._scalars(rate), later=self._measure.later)

        with self._recorder.guarded():
            self._record(int(self._optimizer._iterations) // self._accumulate, row)


class _Jax(_Updates):
    """Traced: the update step is computed at every micro-step, and its outcome dropped in all but the last."""

    def _prepare(self, hooks: Hooks) -> None:
        from gradlog.integrations.jax_sketch import JaxSketch, filled

        self._sketch, self._fill = JaxSketch(hooks.header), filled

    def __call__(self, grads: Tensors, variables: Variables, rate: Number) -> None:
        from jax.experimental import io_callback

        with self._recorder.guarded():  # tracing: what goes wrong here must leave the step as it is
            row = self._sketch(self._ordered(grads, variables))
            rate = keras.ops.convert_to_tensor(rate)
            io_callback(self._receive, None, self._optimizer._iterations.value, row, rate, ordered=True)

    def _receive(self, iteration: NDArray[np.generic], sketched: Sketched, rate: NDArray[np.generic]) -> None:
        with self._recorder.guarded():
            number, micro = divmod(int(iteration), self._accumulate)
            if micro == self._accumulate - 1:
                self._record(number, lambda: Row(self._fill(sketched), self._scalars(rate)))
