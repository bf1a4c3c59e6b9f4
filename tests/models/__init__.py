"""What is particular to one network."""
