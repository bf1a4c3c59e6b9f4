"""Measures the catalog against PyTorch: ``python -m examples.benchmark``."""
