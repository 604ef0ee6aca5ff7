"""Runs that grow, and a cache folder for each test."""

from __future__ import annotations

from tests.helpers.growing_runs import cache_folder, record, rows_read, small_blocks

__all__ = ["cache_folder", "record", "rows_read", "small_blocks"]
