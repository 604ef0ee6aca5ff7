"""The analysis itself, and the forms of its result: Dataset, JSON, files."""
