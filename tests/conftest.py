"""float64 for every test: it is what tells a wrong formula from rounding."""

import itertools
import os
from importlib.metadata import version

FLAGS = ["--xla_backend_optimization_level=0"]  # compiling is most of the time
if version("jaxlib").startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # a third faster; later versions do not know the flag

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the arrays are small: more threads wait for each other
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")

count = itertools.count(1)


@pytest.fixture(autouse=True)
def bound_the_compilation_cache():
    """What thousands of tests compile would fill the memory."""
    yield
    if next(count) % 50 == 0:
        jax.clear_caches()


@pytest.fixture
def no_annotation_checks():
    """Users run without jaxtyping's checks, which would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
