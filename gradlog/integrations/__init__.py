"""One module a framework; each imports its framework inside functions, and none imports another."""
