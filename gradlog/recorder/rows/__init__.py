"""Turn the gradients of a step into a row."""
