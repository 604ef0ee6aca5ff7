"""Open the store of a run, and read its metadata and chunks within bounds."""
