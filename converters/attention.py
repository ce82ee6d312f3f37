"""Attention: PyTorch's torch.nn, "Transformer Layers" and nn.MultiheadAttention."""
