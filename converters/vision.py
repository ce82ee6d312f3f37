"""Vision: PyTorch's torch.nn, "Vision Layers"."""
