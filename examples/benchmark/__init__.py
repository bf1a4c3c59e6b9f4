"""Measures the catalog against PyTorch: ``python -m examples.benchmark``.

Idle threads of PyTorch would spin, and so take half of two cores from the function that is called next.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
