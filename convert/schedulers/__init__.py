"""PyTorch's learning rate schedulers: what their state dicts hold, and the optax schedules that are the same."""
