"""Writes files: each format in a file of its own, and each new file in the place of the old one as a whole."""
