"""Reads the bytes of checkpoint files as plain data, without PyTorch and without running anything in them."""
