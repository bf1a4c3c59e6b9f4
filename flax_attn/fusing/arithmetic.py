"""The numbers that a normalization multiplies and adds in evaluation, and how a layer before it takes them over."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.fusing.dataflow import Layer, Path
from flax_attn.layers import BatchNorm
from flax_attn.layers.conv import ConvTranspose
from flax_attn.layers.module import accumulator

PerChannel = Float[Array, "c"]


def fold(variables: dict[Path, Any], layers: Mapping[Path, Layer], norm: Path, product: Path | None) -> None:
    """Replace the leaves of ``norm`` in ``variables``, and scale those of ``product``, where there is one.

    Each leaf has the dtype of the leaf that it replaces.
    """
    leaves = {path[-1]: variables.pop(path) for path in layers[norm].shapes}
    scale, shift = constants(layers[norm].module, leaves)
    dtype = leaves.get("scale", leaves["var"]).dtype
    variables["params", *norm, "bias"] = shift.astype(dtype)
    if product is None:
        variables["params", *norm, "scale"] = scale.astype(dtype)
        return
    for path in layers[product].shapes:
        leaf = variables[path]
        factor = scale if path[-1] == "bias" else kernel_factor(layers[product].module, scale)
        variables[path] = (leaf.astype(accumulator(leaf.dtype)) * factor).astype(leaf.dtype)


def constants(norm: Any, leaves: Mapping[str, Array]) -> tuple[PerChannel, PerChannel]:
    """What a normalization multiplies its input with, and what it then adds."""
    wide = {name: leaf.astype(accumulator(leaf.dtype)) for name, leaf in leaves.items()}
    scale, bias = wide.get("scale"), wide.get("bias", 0)
    factor = 1 / jnp.sqrt(wide["var"] + norm.eps)
    if scale is not None:
        factor *= norm.gain(scale) if isinstance(norm, BatchNorm) else scale
    return factor, bias - wide["mean"] * factor


def kernel_factor(product: Any, scale: PerChannel) -> Array:
    """``scale``, one number for each channel of the output, in a shape that multiplies the kernel of ``product``.

    The kernel of a transposed convolution is (*k, in, out/groups): each group of inputs has its own outputs.
    """
    if not isinstance(product, ConvTranspose):
        return scale
    return jnp.repeat(scale.reshape(product.groups, -1), product.in_channels // product.groups, axis=0)
