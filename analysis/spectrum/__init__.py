"""Singular values and rank of the stored rows, and of the gradients behind the sketch."""
