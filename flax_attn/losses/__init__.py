"""The losses that the published networks are trained with."""
