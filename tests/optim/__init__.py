"""PyTorch's semantics, layer by layer."""
