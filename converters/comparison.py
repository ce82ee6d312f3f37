"""Comparison, logic and selection: PyTorch's torch page, "Comparison Ops"."""
