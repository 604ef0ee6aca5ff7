"""From the gradients of one step to the k numbers that are stored."""
