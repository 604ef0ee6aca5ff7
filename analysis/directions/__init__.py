"""Compares gradients in direction: of stretches of steps, and from elsewhere; measures the path of the weights."""
