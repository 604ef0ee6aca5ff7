"""From whatever a framework calls gradients to pairs (name, numpy array)."""

from __future__ import annotations

import numbers
import sys
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from gradlog.errors import GradientError
from gradlog.format.codec import Numbers
from gradlog.sketching.sparse import Sparse, from_blocks

if TYPE_CHECKING:
    import torch


def flatten(tree: object) -> list[tuple[str, object]]:
    """Leaves of a tree of gradients with their names.

    Parameters
    ----------
    tree : array, mapping, list, tuple or iterable of (name, array)
        Nested to any depth. A leaf is an ndarray, a torch tensor, anything with ``__array__`` (JAX), a number, or
        None for "no gradient". A list or iterator of pairs (str, array), such as ``model.named_parameters()`` or
        ``grads.items()``, counts as a mapping.

    Returns
    -------
    list of (str, leaf)
        In the order given; names joined by dots, list entries numbered, named tuples by field. A single array is
        called ``"w"``.

    Raises
    ------
    GradientError
        A leaf is not numeric; the message names its path.

    Examples
    --------
    >>> [name for name, _ in flatten({"fc": [np.ones(2), np.ones(3)], "b": None})]
    ['fc.0', 'fc.1', 'b']
    """
    return list(_walk(tree, ""))


def _walk(tree: object, path: str) -> Iterator[tuple[str, object]]:
    if tree is None or hasattr(tree, "__array__") or isinstance(tree, numbers.Number):
        yield path or "w", tree
        return
    for key, child in _children(tree, path):
        yield from _walk(child, f"{path}.{key}" if path else str(key))


def _children(tree: object, path: str) -> Iterable[tuple[object, object]]:
    if isinstance(tree, Mapping):
        return tree.items()
    if isinstance(tree, (Iterator, ItemsView)):
        tree = list(tree)
        if not _is_pairs(tree):
            raise GradientError(
                f"{path or 'gradients'}: expected an iterator of (name, array) pairs; pass a list of arrays"
            )
    if isinstance(tree, (list, tuple)):
        if _is_pairs(tree):
            return tree
        return zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True)
    raise GradientError(
        f"{path or 'gradients'}: expected an array, or a dict, list or tuple of them, got {type(tree).__name__}"
    )


def _is_pairs(items: Iterable[object]) -> TypeGuard[Iterable[tuple[str, object]]]:
    return all(isinstance(i, tuple) and len(i) == 2 and isinstance(i[0], str) for i in items)


def as_numpy(leaf: object, name: str = "gradient") -> Numbers | None:
    """View a leaf as a numpy array.

    Parameters
    ----------
    leaf : array-like or None
        CPU torch tensors and ndarrays are not copied. Types below 32 bits (bfloat16, float8; torch float16) become
        float32, sparse tensors are summed up and made dense, device tensors are copied to the host.
    name : str
        Path of the leaf, for the error message.

    Returns
    -------
    ndarray or None
        None for None.

    Raises
    ------
    GradientError
        The leaf holds something other than numbers.
    """
    if leaf is None:
        return None
    tensor = _torch_tensor(leaf)
    return _from_array(leaf, name) if tensor is None else _from_torch(tensor, name)


def _torch_tensor(leaf: object) -> torch.Tensor | None:
    """Return a torch tensor as what it is, None for anything else; torch is not imported for that."""
    torch = sys.modules.get("torch")
    return leaf if torch is not None and isinstance(leaf, torch.Tensor) else None


def _from_array(leaf: object, name: str) -> Numbers:
    a = np.asarray(leaf)
    if a.dtype.kind in "fciu":
        return a
    if a.dtype.name.startswith(("bfloat16", "float8")):
        return a.astype(np.float32)
    raise GradientError(f"{name}: expected numbers, got an array of dtype {a.dtype}")


def as_entries(leaf: object, name: str = "gradient") -> Numbers | Sparse | None:
    """View a leaf as a numpy array, or as its entries where it is a sparse tensor; otherwise as :func:`as_numpy`."""
    tensor = _torch_tensor(leaf)
    if tensor is None:
        return None if leaf is None else _from_array(leaf, name)
    if not tensor.is_sparse or tensor.is_complex():
        return _from_torch(tensor, name)
    t = tensor.detach().coalesce()
    values = _from_torch(t.values(), name)
    return from_blocks(tuple(t.shape), t.indices().cpu().numpy(), values)


def _from_torch(tensor: torch.Tensor, name: str) -> Numbers:
    import torch  # which is there, since a tensor is

    t = tensor.detach()
    if t.layout is not torch.strided:
        t = t.to_dense()
    if t.dtype.itemsize < 4 and t.dtype.is_floating_point:
        t = t.float()
    try:
        a: Numbers = t.cpu().resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError) as error:
        raise GradientError(f"{name}: no numpy view of a {t.dtype} tensor on {t.device}: {error}") from error
    if a.dtype.kind not in "fciu":
        raise GradientError(f"{name}: expected numbers, got a tensor of dtype {t.dtype}")
    return a


def describe(pairs: Iterable[tuple[str, object]]) -> list[tuple[str, tuple[int, ...], str]]:
    """List (name, shape, dtype) of each leaf: the layout of a run.

    Raises
    ------
    GradientError
        There is no leaf, or a leaf is None, which has no shape.
    """
    found = []
    for name, leaf in pairs:
        if leaf is None:
            raise GradientError(f"{name}: no gradient in the first step; pass like=params so that shapes are known")
        dtype = str(getattr(leaf, "dtype", "float64")).removeprefix("torch.")
        shape = leaf.shape if hasattr(leaf, "shape") else np.asarray(leaf).shape
        found.append((name, tuple(map(int, shape)), dtype))
    if not found:
        raise GradientError("no parameters: expected at least one array")
    return found
