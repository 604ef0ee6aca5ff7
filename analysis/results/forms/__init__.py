"""Give a result as arrays with names, as a Dataset, as JSON and as files."""
