"""What an archived run lets an auditor conclude: one check a module, each a generator of report lines.

``docs/audit.md`` says what every check can and cannot show. None of them is more than evidence of consistency.

>>> from gradlog.analysis import audit_run
>>> report = audit_run("run.zarr")          # doctest: +SKIP
>>> report.failed                           # doctest: +SKIP
False
"""
