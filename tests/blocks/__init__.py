"""What is particular to one block."""
