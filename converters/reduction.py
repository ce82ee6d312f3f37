"""Reductions: PyTorch's torch page, "Reduction Ops"."""
