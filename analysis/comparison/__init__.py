"""Several runs: find them, analyze each, set them side by side."""
