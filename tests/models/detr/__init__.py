"""DETR: its network, batches, losses and results."""
