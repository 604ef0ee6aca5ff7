"""What earlier analyses left, found again by the content of the run."""
