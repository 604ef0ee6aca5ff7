"""Open a stored run and read its rows."""
