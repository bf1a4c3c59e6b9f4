"""All that a training run carries from one step to the next."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from flax_attn.layers.module import require
from flax_attn.training.ema import new_ema

COLLECTIONS = ("params", "batch_stats")


class TrainState(struct.PyTreeNode):
    """A training run between two steps: a pytree of arrays.

    Args:
        step: the number of steps taken, int32.
        params: the parameters, nested dicts.
        batch_stats: the running statistics and other buffers; an empty dict if the module has none.
        opt_state: the state of an optax transformation.
        rng: a key of ``jax.random.key``. The steps do not change it; step n draws from ``fold_in(rng, n)``.
        ema: the average of ``new_ema``, or None.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    rng: Any
    ema: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """What ``module.apply`` takes: "params" and "batch_stats", those that are not empty."""
        return _not_empty({"params": self.params, "batch_stats": self.batch_stats})

    @property
    def ema_variables(self) -> dict[str, Any]:
        """The averaged variables in the form of ``variables``.

        Raises:
            ValueError: if the state has no average.
        """
        require(self.ema is not None, "TrainState: expected an average, got ema=None; create the state with ema=True")
        return _not_empty({name: self.ema.get(name, {}) for name in COLLECTIONS})

    @classmethod
    def create(
        cls,
        variables: Mapping[str, Any],
        optimizer: optax.GradientTransformation,
        rng: Any = 0,
        ema: bool | Mapping[str, Any] = False,
    ) -> "TrainState":
        """A state before the first step. It holds copies, so that a step may reuse the memory of its arrays.

        Args:
            variables: what ``module.init`` or ``from_torch`` returned: "params" and perhaps "batch_stats".
            optimizer: an optax transformation.
            rng: a seed, or a key of ``jax.random.key`` or ``jax.random.PRNGKey``.
            ema: whether to keep an average as PyTorch's ``AveragedModel`` does, or an average of ``new_ema``.

        Raises:
            ValueError: if the variables are not "params" and "batch_stats", the optimizer is no optax transformation,
                or the rng is no seed and no single key.
        """
        require_optimizer("TrainState", optimizer)
        collections = _checked(variables)
        opt_state = optimizer.init(collections["params"])
        average = new_ema(collections) if ema is True else ema or None
        copies = jax.tree.map(jnp.array, (collections, opt_state, average))
        (collections, opt_state, average), step = copies, jnp.zeros((), jnp.int32)
        return cls(step, **collections, opt_state=opt_state, rng=_key(rng), ema=average)


def require_optimizer(who: str, optimizer: Any) -> None:
    """Refuse what is no optax transformation, such as the function that makes one."""
    fits = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    kind = type(optimizer).__name__
    require(fits, f"{who}: expected an optax transformation, got {kind}; call it as in optax.sgd(0.1)")


def _not_empty(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tree for name, tree in variables.items() if jax.tree.leaves(tree)}


def _checked(variables: Any) -> dict[str, Any]:
    """The collections as dicts, if they are those that a state has."""
    if not isinstance(variables, Mapping) or not variables.get("params"):
        got = f"the keys {sorted(map(str, variables))}" if isinstance(variables, Mapping) else type(variables).__name__
        raise ValueError(
            f'TrainState: expected variables such as {{"params": ..., "batch_stats": ...}}, got {got}; '
            "give what module.init returns"
        )
    unknown = sorted(str(name) for name in variables if name not in COLLECTIONS)
    require(
        not unknown,
        f'TrainState: expected the collections "params" and "batch_stats", got also {", ".join(unknown)}; '
        "leave out what the step does not train",
    )
    return {name: flax.core.unfreeze(variables.get(name, {})) for name in COLLECTIONS}


def _key(rng: Any) -> Any:
    """A copy of a key, as a typed key."""
    if isinstance(rng, int | np.integer):
        return jax.random.key(int(rng))
    data = jnp.asarray(rng)
    if jnp.issubdtype(data.dtype, jax.dtypes.prng_key) and data.shape == ():
        return jax.random.wrap_key_data(jnp.array(jax.random.key_data(data)), impl=jax.random.key_impl(data))
    if data.dtype == jnp.uint32 and data.shape == jax.random.key_data(jax.random.key(0)).shape:
        return jax.random.wrap_key_data(jnp.array(data))
    raise ValueError(
        f"TrainState: expected a seed or one key as rng, got {data.dtype} {data.shape}; write jax.random.key(0)"
    )
