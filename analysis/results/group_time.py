"""Where and when the prediction error arises: path length by parameter group and window of steps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.jackknife import ENDS
from gradlog.analysis.common.types import Float64

if TYPE_CHECKING:
    import xarray


@dataclasses.dataclass(frozen=True)
class GroupTime:
    """Path length of one predictor by window and group.

    Attributes
    ----------
    predictor : str
    first, last : int64 (windows,)
        Steps at the ends of each window.
    groups : tuple of str
    share, low, high : float64 (windows, groups)
        Share of a group in the window's path length, with its sketch 95 % interval; rows of ``share``
        sum to 1. NaN where a window has no path length.
    path : float64 (windows, groups)
        The path lengths.
    """

    predictor: str
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    groups: tuple[str, ...]
    share: Float64
    low: Float64
    high: Float64
    path: Float64


def group_time(ds: xarray.Dataset, predictor: str = "last") -> GroupTime:
    """Take the shares of groups and windows in a predictor's path length from an analysis.

    Parameters
    ----------
    ds : Dataset
        Of ``analyze`` with a window, by group.
    predictor : str

    Raises
    ------
    ValueError
        The analysis has no windows, no groups in them, or not this predictor.

    Examples
    --------
    >>> ds = analyze("run.zarr", window=100)              # doctest: +SKIP
    >>> group_time(ds).share.sum(axis=1)                  # doctest: +SKIP
    array([1., 1., 1.])
    """
    known = ds["predictor"].values.tolist()
    if "window_group_path_share" not in ds:
        raise ValueError("the result has no groups by window; analyze the run with window=N and by_group=True")
    if predictor not in known:
        raise ValueError(f"the result has no predictor {predictor!r}, only {', '.join(known)}")
    here = ds.sel(predictor=predictor)
    share, low, high = (here[f"window_group_path_share{end}"].values for end in ENDS)
    return GroupTime(
        predictor,
        ds["window_first_step"].values,
        ds["window_last_step"].values,
        tuple(map(str, ds["group"].values)),
        share,
        low,
        high,
        share * here["window_path_length"].values[:, None],
    )
