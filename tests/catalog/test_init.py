"""A fresh Flax module has the distribution of a fresh twin in every leaf: training from scratch starts alike."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")

from flax_attn.catalog import CATALOG
from tests.helpers.walk import FIRST, entries, entry_plan
from torch_ref.twins import build_twin

ENOUGH, FEW, P = 20_000, 10, 1e-5


@entries(CATALOG, slow=lambda entry: entry.slow or FIRST.get(entry.cls) != entry.name)
def test_fresh_parameters_are_distributed_as_pytorchs(entry):
    module = entry.module()
    mapping = entry_plan(entry)
    count = min(20, 2 + ENOUGH // max(1, sum(math.prod(row.shape) for row in mapping.rows)))
    args, kwargs = entry.arguments([jnp.zeros(s.shape, s.dtype) for s in entry.structs(module)])
    init = jax.jit(jax.vmap(lambda key: module.init(key, *args, **kwargs)))
    drawn = init(jax.random.split(jax.random.key(0), count))
    ours = [mapping.to_torch(jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), drawn)) for i in range(count)]
    torch.manual_seed(0)
    theirs = [build_twin(entry.cls, entry.kwargs).state_dict() for _ in range(count)]
    for key in ours[0]:
        a, b = (np.concatenate([np.ravel(state[key]) for state in side]) for side in (ours, theirs))
        if b.size and b.min() == b.max():
            np.testing.assert_array_equal(a, b, key)
        elif b.size >= FEW:  # fewer numbers do not tell
            assert stats.ks_2samp(a, b, method="asymp").pvalue > P, key
            np.testing.assert_allclose(a.std(), b.std(), rtol=6 / np.sqrt(b.size), err_msg=key)
