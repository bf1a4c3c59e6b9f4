"""PyTorch's optimizers. Each is a function with PyTorch's arguments that returns a transformation of optax."""
