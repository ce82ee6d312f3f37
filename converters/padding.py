"""Padding: PyTorch's torch.nn, "Padding Layers"."""
