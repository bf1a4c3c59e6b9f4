"""Keeps an exponential moving average of a network, as ``torch.optim.swa_utils`` and timm do."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from flax_attn.layers.module import require

COUNT = "n_averaged"


def new_ema(variables: Mapping[str, Any], copy_first: bool = True) -> dict[str, Any]:
    """An average that starts as a copy of the variables.

    Args:
        variables: "params" and, where there are any, "batch_stats".
        copy_first: whether the first update copies the variables instead of averaging, as PyTorch's ``AveragedModel``
            does. The average then holds also the number of updates, "n_averaged". False for timm's ``ModelEmaV2``.

    Returns:
        A dict of "params", "batch_stats" and perhaps "n_averaged"; the ``ema`` of a ``TrainState``.
    """
    collections = {name: jax.tree.map(jnp.array, dict(variables.get(name, {}))) for name in ("params", "batch_stats")}
    return {**collections, **({COUNT: jnp.zeros((), jnp.int32)} if copy_first else {})}


def update_ema(
    ema: Mapping[str, Any], variables: Mapping[str, Any], decay: float, buffers: bool = False
) -> dict[str, Any]:
    """The average after one more step: decay * average + (1 - decay) * variables.

    Args:
        ema: what ``new_ema`` or this function returned.
        variables: the variables of the network after the step.
        decay: a number in [0, 1].
        buffers: whether "batch_stats" are averaged; otherwise they are copied. PyTorch's ``use_buffers``; timm's
            average has True. Averages of integers are computed in float32 and rounded towards zero, as in PyTorch.

    Raises:
        ValueError: if ``decay`` is not in [0, 1].
    """
    require(0 <= decay <= 1, f"update_ema: expected a decay in [0, 1], got {decay}")

    def averaged(old: Any, new: Any) -> Array:
        value = _lerp(old, new, decay)
        return jnp.where(ema[COUNT] == 0, new, value) if COUNT in ema else value

    params = jax.tree.map(averaged, ema["params"], variables["params"])
    statistics = variables.get("batch_stats", {})
    old = ema.get("batch_stats", {}) if buffers else {}
    kept = jax.tree.map(averaged, old, statistics) if old else jax.tree.map(jnp.array, statistics)
    return {**ema, "params": params, "batch_stats": kept, **({COUNT: ema[COUNT] + 1} if COUNT in ema else {})}


def _lerp(old: Any, new: Any, decay: float) -> Array:
    """``torch.lerp(old, new, 1 - decay)``, which leaves equal numbers equal; its formula depends on the weight."""
    if not jnp.issubdtype(old.dtype, jnp.inexact):
        return (jnp.float32(old) * decay + jnp.float32(new) * (1 - decay)).astype(old.dtype)
    weight = 1 - decay
    value = old + weight * (new - old) if weight < 0.5 else new - (new - old) * (1 - weight)
    return value.astype(old.dtype)
