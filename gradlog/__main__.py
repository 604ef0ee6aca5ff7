"""``python -m gradlog``: the command line."""

from gradlog.cli import main

main()
