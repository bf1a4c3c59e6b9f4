"""The README and the pages tell the truth."""
