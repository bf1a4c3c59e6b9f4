"""Vision attention for JAX, with exact PyTorch weight parity."""
