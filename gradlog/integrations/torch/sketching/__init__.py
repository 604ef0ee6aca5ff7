"""Sketch torch tensors: on the CPU, on devices, in shards and from several ranks."""
