"""Runs ``examples.benchmark.command``."""

from examples.benchmark.command import main

if __name__ == "__main__":
    main()
