"""A linen module as an NNX module with its weights in it, and back."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge


class NNXModule(bridge.ToNNX):
    """The NNX module that ``to_nnx`` makes.

    The call takes the arguments of the linen module's call. Parameters are ``nnx.Param``, running statistics
    ``nnx.BatchStat``. With ``train=True`` the call updates the running statistics in place.
    """

    def __call__(self, *args: Any, train: bool = False, **kwargs: Any) -> Any:
        mutable = ["batch_stats"] if train else False
        return super().__call__(*args, train=train, **{"mutable": mutable, **kwargs})


def to_nnx(module: nn.Module, variables: Mapping[str, Any], rngs: nnx.Rngs | None = None) -> NNXModule:
    """An NNX module that computes what ``module.apply(variables, ...)`` computes.

    It trains with ``nnx.Optimizer``. The arrays are copies.

    Args:
        module: a linen module whose call takes ``train``.
        variables: {"params": ..., "batch_stats": ...}, for example from ``convert.from_torch``.
        rngs: the random streams, for example ``nnx.Rngs(dropout=0)``; ``nnx.Rngs(0)`` when None.

    Raises:
        ValueError: if ``variables`` are not of that form.
    """
    known = {"params", "batch_stats"}
    if not isinstance(variables, Mapping) or not variables.keys() <= known:
        got = (
            f"the keys {', '.join(map(str, variables))}" if isinstance(variables, Mapping) else type(variables).__name__
        )
        raise ValueError(f'to_nnx: expected variables {{"params": ..., "batch_stats": ...}}, got {got}')
    wrapped = NNXModule(module, rngs=nnx.Rngs(0) if rngs is None else rngs)
    copies = jax.tree.map(jnp.array, dict(variables))
    for name, value in bridge.variables.linen_vars_to_nnx_attrs(copies).items():
        setattr(wrapped, name, value)
    return wrapped


def from_nnx(module: NNXModule) -> dict[str, Any]:
    """The variables in an NNX module that ``to_nnx`` made, {"params": ..., "batch_stats": ...}: its inverse.

    Raises:
        ValueError: for any other NNX module.
    """
    if not isinstance(module, bridge.ToNNX):
        raise ValueError(f"from_nnx: expected a module that to_nnx made, got a {type(module).__name__}")
    inside = {name: value for name, value in vars(module).items() if not name.startswith(("to_nnx__", "_pytree__"))}
    return bridge.variables.nnx_attrs_to_linen_vars(inside)
