"""Folds BatchNorm into the convolutions before it, for inference."""
