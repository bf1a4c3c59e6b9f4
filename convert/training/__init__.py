"""PyTorch training checkpoints: the state of the optimizer and of the schedule, beside the weights."""
