"""A report on one run or several: one HTML file, readable anywhere, offline.

>>> from gradlog.analysis import write_report
>>> write_report(["run.zarr"], "report.html")        # doctest: +SKIP
"""
