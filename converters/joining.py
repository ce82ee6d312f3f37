"""Joining and splitting: PyTorch's torch page, "Indexing, Slicing, Joining, Mutating Ops"."""
