"""What the project is used for; each folder or file runs with ``python -m``."""
