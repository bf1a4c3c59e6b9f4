"""The real checkpoints and data beside the project; a test that needs a folder skips, with the reason, without it."""

import gzip
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"


def needs(*folders: str) -> pytest.MarkDecorator:
    absent = [folder for folder in folders if not (SHARED / folder).is_dir()]
    return pytest.mark.skipif(bool(absent), reason=f"no {', '.join(absent)} in {SHARED}")


def mnist() -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test digits (n, 28, 28, 1), 0 to 255, and their labels."""
    images = gzip.decompress((SHARED / "mnist_t10k" / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((SHARED / "mnist_t10k" / "t10k-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1), np.frombuffer(labels, np.uint8, offset=8)
