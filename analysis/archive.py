"""Many runs: found under folders, patterns and URLs, analyzed each in one pass, gathered in one Dataset.

What is known by the digest of a run's content is not computed again, so that a call that was broken off goes on where
it was, and a second one is a matter of reading metadata. A run that cannot be analyzed is listed and stops no other.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec

from gradlog.analysis import blocks
from gradlog.analysis.cache import Cache, key, resolve
from gradlog.analysis.cluster import spread
from gradlog.analysis.digests import fingerprint
from gradlog.analysis.pipeline import analyze
from gradlog.analysis.reader import Run, View, open_run
from gradlog.analysis.remote import answering
from gradlog.analysis.result_json import to_json
from gradlog.analysis.stack import from_arrays, stack, to_arrays
from gradlog.errors import GradlogError, NotARunError
from gradlog.schema import META, ROOT_KEY

if TYPE_CHECKING:
    import xarray

SCHEMA = "gradlog.archive/1"

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Progress = Callable[[int, int], None]
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that could not be analyzed: where, what went wrong, and the class of the error."""

    path: str
    error: str
    type: str


@dataclasses.dataclass(frozen=True)
class Archive:
    """Results by path, in order, and the runs that have none."""

    results: dict[str, xarray.Dataset]
    failed: list[Failure]

    def dataset(self) -> xarray.Dataset:
        """All of it with a dimension ``run``; see ``analyze_many``."""
        paths = list(self.results)
        lost = [dataclasses.asdict(f) for f in self.failed]
        attrs = {"title": "gradlog analysis", "schema": SCHEMA, "runs": json.dumps(paths), "failed": json.dumps(lost)}
        return stack(list(self.results.values()), paths, attrs)

    def document(self) -> dict[str, Any]:
        """Plain object: ``schema``, ``runs`` (each as ``to_json`` gives it) and ``failed`` (path, error, type)."""
        documents = [to_json(ds) for ds in self.results.values()]
        return {"schema": SCHEMA, "runs": documents, "failed": [dataclasses.asdict(f) for f in self.failed]}


def analyze_many(paths: Paths, **options: Any) -> xarray.Dataset:
    """Analyze every run of an archive into one Dataset.

    Parameters
    ----------
    paths, **options
        As for ``analyze_each``.

    Returns
    -------
    xarray.Dataset
        The variables of ``analyze`` with a leading dimension ``run``. The attributes ``schema``, ``runs`` (JSON: paths)
        and ``failed`` (JSON: objects with path, error and type).

    Examples
    --------
    >>> ds = analyze_many("runs/*.zarr", predictors=["last"])         # doctest: +SKIP
    >>> ds.kappa.sel(predictor="last").to_series()                    # doctest: +SKIP
    """
    return analyze_each(paths, **options).dataset()


def analyze_each(
    paths: Paths,
    *,
    view: View = "latest",
    cache: Cache | bool | str | os.PathLike[str] | None = True,
    scheduler: Any = None,
    progress: Progress | None = None,
    **options: Any,
) -> Archive:
    """Analyze every run of an archive, each in one pass.

    Parameters
    ----------
    paths : path or several
        Runs, folders or bucket URLs that hold runs at any depth, or patterns such as ``"runs/*.zarr"``.
    view : {"latest", "all"}
        As for ``open_run``.
    cache : bool, path or Cache
        Where results and summaries are kept (True: the user's cache folder; False: nowhere).
    scheduler : None, "threads", "synchronous", address or distributed client
        Default: as many runs at once as there are cores, each in a thread of its own; with ``memory`` among the
        options one after the other. On a cluster each run is one task.
    progress : callable, optional
        ``progress(done, total)`` on runs.
    **options
        As for ``analyze``.

    Returns
    -------
    Archive
        A run that cannot be opened or analyzed, and a path with no run, are in ``failed``.

    Raises
    ------
    NotARunError
        No path was given.
    ValueError, TypeError
        An option that no run would take.
    SchedulerError
        No scheduler answers.
    """
    found, failed = find(paths)
    if not found and not failed:
        raise NotARunError("no path given; expected runs such as 'run.zarr', or folders of them")
    outcomes = _outcomes(found, resolve(cache), view, scheduler, options, progress or (lambda done, total: None))
    done = {p: r for p, r in zip(found, outcomes, strict=True) if not isinstance(r, Failure)}
    return Archive(done, [*failed, *(r for r in outcomes if isinstance(r, Failure))])


def analyze_one(
    path: str, cache: Cache | None = None, view: View = "latest", progress: Progress | None = None, **options: Any
) -> xarray.Dataset:
    """``analyze``, or what the cache holds of the same question to the same content."""
    before = None if cache is None else fingerprint(path)
    name = None if before is None else _question(before, view, options)
    kept = cache.get(name) if cache and name else None
    if kept is not None:
        return _relocated(from_arrays(kept), path)
    result = analyze(open_run(path, view), cache=cache, progress=progress, **options)
    if cache and name and fingerprint(path) == before:  # a live run may have grown in between
        cache.put(name, to_arrays(result))
    return result


def each_run(
    paths: Paths, measure: Callable[[Run, str], Result], view: View = "latest"
) -> tuple[list[Result], list[Failure]]:
    """``measure(run, path)`` for every run at or under the paths, one after another; what fails is listed.

    Raises
    ------
    NotARunError
        No path was given.
    """
    found, failed = find(paths)
    if not found and not failed:
        raise NotARunError("no path given; expected runs such as 'run.zarr', or folders of them")
    results = []
    for path in found:
        try:
            results.append(measure(open_run(path, view), path))
        except (GradlogError, OSError, MemoryError) as error:
            failed.append(Failure(path, " ".join(str(error).split()), type(error).__name__))
    return results, failed


def find(paths: Paths) -> tuple[list[str], list[Failure]]:
    """List the runs at or under each path or pattern, each once, sorted; and the paths that hold none."""
    found: dict[str, None] = {}
    failed = []
    for path in map(os.fspath, _several(paths)):
        try:
            with answering(path):
                here = sorted(_find(path))
        except (OSError, ValueError, ImportError) as error:
            failed.append(Failure(path, str(error), type(error).__name__))
            continue
        if not here:
            failed.append(Failure(path, "no run in there", "NotARunError"))
        found |= dict.fromkeys(here)
    return list(found), failed


def is_run(path: str) -> bool:
    """Whether a path or URL names one run rather than a place or pattern of several."""
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
        with answering(path):
            return root.endswith(".zip") or _is_run(filesystem, root)
    except (OSError, ValueError, ImportError):
        return False


def is_several(paths: Sequence[str]) -> bool:
    """Whether this asks for an archive: several paths, a pattern, or a place that holds runs and is none."""
    if len(paths) != 1 or is_run(paths[0]):
        return len(paths) > 1
    return _is_pattern(paths[0]) or bool(find(paths)[0])


def _is_pattern(path: str) -> bool:
    return any(c in path for c in "*?[") and ("://" in path or not os.path.exists(path))


def _several(paths: Any) -> list[Any]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _find(path: str) -> list[str]:
    filesystem, root = fsspec.core.url_to_fs(path)
    remote = "://" in path
    if remote:
        filesystem.invalidate_cache()  # listings are shared in this process, and archives grow
    if _is_pattern(path):
        places = filesystem.glob(root) if remote else glob(path, recursive=True)
    elif remote or os.path.exists(path):
        places = [root if remote else path.rstrip("/") or "/"]
    else:
        raise NotARunError("no such file or folder")
    under = [run for place in places for run in _under(filesystem, place)]
    return [filesystem.unstrip_protocol(run) for run in under] if remote else under


def _under(filesystem: Any, place: str) -> list[str]:
    """List runs at a place or below it; a run's own folders are not looked into."""
    if place.endswith(".zip"):
        return [place]
    if _is_run(filesystem, place):
        return [place]
    found = []
    for entry in filesystem.ls(place, detail=True):
        name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
        here = f"{place.rstrip('/')}/{name}"
        if name.startswith(".") or entry.get("islink"):
            continue
        if entry["type"] == "directory":
            found += _under(filesystem, here)
        elif name.endswith(".zip"):
            found.append(here)
    return found


def _is_run(filesystem: Any, place: str) -> bool:
    try:
        meta = json.loads(filesystem.cat_file(f"{place.rstrip('/')}/{META}"))
        return ROOT_KEY in meta["attributes"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        return True  # a damaged header is for the reader to name


def _outcomes(
    found: Sequence[str], cache: Cache | None, view: View, scheduler: Any, options: dict[str, Any], report: Progress
) -> list[Any]:
    report(0, len(found))
    cluster = scheduler not in (None, "threads", "synchronous")
    if cluster and len(found) > 1:
        return spread(_attempt, [(p, cache, view, {**options, "scheduler": "synchronous"}) for p in found],
                             scheduler, report)  # fmt: skip
    at_once = min(blocks.workers(scheduler), len(found))
    if at_once < 2 or options.get("memory") is not None:
        outcomes = []
        for done, path in enumerate(found, start=1):
            outcomes.append(_attempt(path, cache, view, {**options, "scheduler": scheduler}))
            report(done, len(found))
        return outcomes
    inside = {**options, "scheduler": "synchronous"}
    with ThreadPoolExecutor(at_once, thread_name_prefix="gradlog-archive") as pool:
        waiting = [pool.submit(_attempt, path, cache, view, inside) for path in found]
        try:
            outcomes = []
            for done, future in enumerate(waiting, start=1):
                outcomes.append(future.result())
                report(done, len(found))
            return outcomes
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _attempt(path: str, cache: Cache | None, view: View, options: dict[str, Any]) -> xarray.Dataset | Failure:
    """Analyze a run, or say what is wrong with it; a wrong option is the caller's error and raises."""
    try:
        return analyze_one(path, cache, view, **options)
    except (GradlogError, OSError, MemoryError) as error:
        return Failure(path, " ".join(str(error).split()), type(error).__name__)


def _question(content: str, view: View, options: dict[str, Any]) -> str | None:
    """Key of a result; None for options that have no plain form, such as predictors of one's own."""
    asked = {name: value for name, value in options.items() if name not in ("scheduler", "memory")}
    try:
        return key("result", content, view, asked)
    except TypeError:
        return None


def _relocated(ds: xarray.Dataset, path: str) -> xarray.Dataset:
    """Name the place where the run is now."""
    ds.attrs["run"] = json.dumps(json.loads(ds.attrs["run"]) | {"path": path})
    return ds
