"""PyTorch's optimizers and learning rate schedules, as transformations and schedules of optax."""
