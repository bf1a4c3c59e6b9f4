"""One training state and one training step for every module of this package."""
