"""Casts: Tensor.to and its kin."""
