"""Data of the scripts: drawn, built from what installed packages ship, or downloaded and checked.

A data set gives the batch of any step from the seed and the step's number alone, so an interrupted run continues with
the batches that it would have seen. ``digest`` names its content.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Batch = tuple[torch.Tensor, torch.Tensor]


class Rows:
    """Rows of (x, y), shuffled anew each epoch; the last, smaller batch of an epoch is left out."""

    def __init__(self, name: str, x: NDArray[Any], y: NDArray[Any], seed: int) -> None:
        self.name, self.seed = name, seed
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.digest = digest(x, y)
        self._order = functools.lru_cache(1)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(x)))

    def batch(self, step: int, size: int) -> Batch:
        """Rows of one step."""
        if size > len(self.x):
            raise SystemExit(f"--batch {size} is more than the {len(self.x)} rows of {self.name}")
        epoch, place = divmod(step, len(self.x) // size)
        rows = self._order(epoch)[place * size : (place + 1) * size]
        return self.x[rows], self.y[rows]

    def steps_per_epoch(self, size: int) -> int:
        """Batches until the data begin anew."""
        return len(self.x) // size


class Drawn:
    """Fresh examples for every step: ``make(rng, size)`` gives (x, y)."""

    def __init__(self, name: str, make: Callable[[np.random.Generator, int], tuple[Any, Any]], seed: int) -> None:
        self.name, self.seed, self._make = name, seed, make
        self.digest = digest(*make(np.random.default_rng([seed, 0]), 64))

    def batch(self, step: int, size: int) -> Batch:
        """Examples of one step."""
        x, y = self._make(np.random.default_rng([self.seed, step]), size)
        return torch.from_numpy(x), torch.from_numpy(y)

    def steps_per_epoch(self, size: int) -> int:
        """None: every batch is drawn anew."""
        return 0


class Text:
    """Windows of a token sequence at random places; the target is the sequence itself."""

    def __init__(self, name: str, tokens: NDArray[np.int64], seed: int, length: int) -> None:
        self.name, self.seed, self.length = name, seed, length
        self.tokens = torch.from_numpy(tokens)
        self.digest = digest(tokens)

    def batch(self, step: int, size: int) -> torch.Tensor:
        """Tokens (size, length) of one step."""
        rng = np.random.default_rng([self.seed, step])
        starts = rng.integers(0, len(self.tokens) - self.length, size)
        return torch.stack([self.tokens[s : s + self.length] for s in starts])

    def steps_per_epoch(self, size: int) -> int:
        """None: every batch is drawn anew."""
        return 0


def images(source: str, seed: int, size: int | None = None) -> Rows:
    """32 x 32 colour images in 100 classes: CIFAR-100, or crops of ten photographs (``size`` of them)."""
    if source == "real":
        return cifar100(seed)
    return photo100(seed, size or 10_000)


def photo100(seed: int, size: int) -> Rows:
    """Crops of ten photographs that scikit-image and scikit-learn ship; the class is the region cropped from.

    Public domain: astronaut, hubble_deep_field (NASA), rocket (SpaceX). CC0: chelsea (S. van der Walt), coffee
    (R. Michetti), retina (M. Haggstrom), camera (L. Varshney), brick (CC0 Textures). CC BY 2.0: china
    (danielbuechele), flower (vultilion). Grey photographs count as colour ones of equal channels.
    """
    rng = np.random.default_rng(100)
    y = np.arange(size) % 100
    x = np.empty((size, 3, 32, 32), np.float32)
    regions = [part for photograph in photographs() for part in grid(photograph)]
    for i, label in enumerate(y):
        part = regions[label]
        top, left = (rng.integers(0, n - 31) for n in part.shape[:2])
        x[i] = part[top : top + 32, left : left + 32].transpose(2, 0, 1)
    mean, spread = x.mean(axis=(0, 2, 3), keepdims=True), x.std(axis=(0, 2, 3), keepdims=True)
    return Rows(f"photo100: {size:,} crops of 10 photographs", (x - mean) / spread, y, seed)


def photographs() -> list[NDArray[np.uint8]]:
    """Ten photographs whose licences are stated where they come from, (height, width, 3)."""
    try:
        import skimage.data
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise SystemExit(f"the offline images need {error.name}: pip install '.[examples]'") from error
    names = ["astronaut", "rocket", "hubble_deep_field", "chelsea", "coffee", "retina", "camera", "brick"]
    found = [getattr(skimage.data, name)() for name in names]
    found += [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    return [np.repeat(p[..., None], 3, axis=2) if p.ndim == 2 else p[..., :3] for p in found]


def grid(photograph: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Ten regions of a photograph: two rows of five."""
    return [part for row in np.array_split(photograph, 2) for part in np.array_split(row, 5, axis=1)]


def cifar100(seed: int) -> Rows:
    """Training images of CIFAR-100 (Krizhevsky 2009), from its binary archive, which holds no pickle."""
    archive = download(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "md5", "03b5dce01913d631647c71ecec9e9cb8"
    )
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile("cifar-100-binary/train.bin")
        assert member is not None
        records = np.frombuffer(member.read(), np.uint8).reshape(-1, 2 + 3 * 32 * 32)
    x = records[:, 2:].reshape(-1, 3, 32, 32).astype(np.float32) / 255
    mean, spread = x.mean(axis=(0, 2, 3), keepdims=True), x.std(axis=(0, 2, 3), keepdims=True)
    return Rows("CIFAR-100", (x - mean) / spread, records[:, 1].astype(np.int64), seed)


def table(seed: int) -> Rows:
    """10,000 rows of 32 features in 4 classes, drawn by scikit-learn."""
    from sklearn.datasets import make_classification

    x, y = make_classification(10_000, 32, n_informative=16, n_classes=4, random_state=0)
    return Rows("make_classification 10,000 x 32", x.astype(np.float32), y.astype(np.int64), seed)


def sequences(task: str, seed: int) -> Drawn:
    """16 random digits, and at each place their sum so far modulo 10 (cumsum) or the digits in order (sort)."""

    def make(rng: np.random.Generator, size: int) -> tuple[Any, Any]:
        x = rng.integers(0, 10, (size, 16))
        return x, x.cumsum(axis=1) % 10 if task == "cumsum" else np.sort(x, axis=1)

    return Drawn(f"{task} of 16 random digits", make, seed)


def manual(seed: int, length: int) -> Text:
    """Read Python's language reference as CPython ships it for ``help()`` (PSF licence); a token is a byte."""
    from pydoc_data.topics import topics

    text = "".join(topics[name] for name in sorted(topics))
    tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    return Text(f"Python reference, {len(tokens):,} bytes", tokens, seed, length)


def wikitext2(seed: int, length: int, encode: Callable[[str], list[int]]) -> Text:
    """Training text of WikiText-2 raw (Merity et al. 2016, CC BY-SA 4.0), from its author's archive."""
    archive = download(
        "https://wikitext.smerity.com/wikitext-2-raw-v1.zip",
        "sha256",
        "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
    )
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        text = files.read("wikitext-2-raw/wiki.train.raw").decode()
    return Text("WikiText-2", np.array(encode(text), np.int64), seed, length)


def download(url: str, algorithm: str, expected: str) -> bytes:
    """Bytes of ``url``, kept under ``$GRADLOG_DATA`` (default ~/.cache/gradlog-examples), whose digest is checked.

    Raises
    ------
    SystemExit
        No network, or bytes that are not the ones expected; names ``--data offline``.
    """
    folder = Path(os.environ.get("GRADLOG_DATA", Path.home() / ".cache" / "gradlog-examples"))
    kept = folder / url.rsplit("/", 1)[1]
    if kept.exists():
        content = kept.read_bytes()
    else:
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                content = reply.read()
        except OSError as error:
            raise SystemExit(f"cannot download {url} ({error}); --data offline needs no network") from error
    found = hashlib.new(algorithm, content).hexdigest()
    if found != expected:
        where = kept if kept.exists() else url
        raise SystemExit(f"{where}: {algorithm} is {found}, expected {expected}; remove it, or use --data offline")
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kept.with_suffix(".partial").write_bytes(content)
        os.replace(kept.with_suffix(".partial"), kept)
    return content


def digest(*arrays: NDArray[Any]) -> str:
    """Sixteen hexadecimal digits of the content."""
    h = hashlib.blake2b(digest_size=8)
    for a in arrays:
        h.update(f"{a.dtype.str}{a.shape}".encode())
        h.update(np.ascontiguousarray(a).data)
    return h.hexdigest()
