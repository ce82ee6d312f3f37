"""Slicing and indexing: PyTorch's torch page, "Indexing, Slicing, Joining, Mutating Ops"."""
