"""One run, one result: computed, or found in the cache by the content of the run and the question."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Unpack

from gradlog.analysis.caching.cache import key, resolve
from gradlog.analysis.measures.predictors.registry import built_in
from gradlog.analysis.reading.metadata import Metadata
from gradlog.analysis.reading.run import Run, View
from gradlog.analysis.results.analyze import analyze
from gradlog.analysis.results.dataset import from_arrays, to_arrays
from gradlog.analysis.results.json_document import to_json
from gradlog.analysis.results.options import Caching, Question

if TYPE_CHECKING:
    import xarray

WITHOUT_INFLUENCE = ("scheduler", "memory", "progress")
"""Options that no number depends on."""


def analyze_cached(
    run: Run | Metadata, view: View = "latest", cache: Caching = True, **options: Unpack[Question]
) -> xarray.Dataset:
    """``analyze``, or what the cache holds of the same question to the same content.

    Parameters
    ----------
    run : Run or Metadata
        Metadata are opened as a run, with this ``view``, only where the result is not known.
    cache
        As of ``analyze``.
    **options
        As of ``analyze``. Those without a plain form, such as predictors of one's own, are computed every time.
    """
    view, content = (run.view, run.content) if isinstance(run, Run) else (view, run.digest)
    folder = resolve(cache)
    name = None if folder is None or content is None else _question(content, view, options)
    if folder and name:
        kept = folder.recall(name, lambda arrays: _relocated(from_arrays(arrays), run.where))
        if kept is not None:
            return kept
    result = analyze(run if isinstance(run, Run) else Run(run, view), cache=folder, **options)
    if folder and name:
        folder.put(name, to_arrays(result))
    return result


def _question(content: str, view: View, options: Question) -> str | None:
    """Key of a result; None for options that have no plain form."""
    if not built_in(options.get("predictors")):
        return None
    try:
        return key("result", content, view, {k: v for k, v in options.items() if k not in WITHOUT_INFLUENCE})
    except TypeError:
        return None


def _relocated(ds: xarray.Dataset, path: str) -> xarray.Dataset:
    """Name the place where the run is now; raises where this is no result."""
    ds.attrs["run"] = json.dumps(json.loads(ds.attrs["run"]) | {"path": path})
    to_json(ds)
    return ds
