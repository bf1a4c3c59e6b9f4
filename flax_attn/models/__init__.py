"""Whole networks made of blocks, with the published checkpoints' key names."""
