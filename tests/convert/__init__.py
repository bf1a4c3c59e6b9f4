"""State dicts, files, the command line, and real checkpoints."""
