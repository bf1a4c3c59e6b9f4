"""PyTorch's optimizers: what their state dicts hold, and the optax states that are the same."""
