"""Measures the catalog against PyTorch: ``python -m examples.benchmark``."""

from examples.benchmark.command import main
