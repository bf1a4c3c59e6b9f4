"""Runs a Flax module and a PyTorch module on the same numbers, and reports how far the results are apart."""
