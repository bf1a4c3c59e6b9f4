"""The name and the layout in PyTorch of each leaf of a layer class: one row a layer class.

The leaves of a class that is not listed, and has no listed base, have the same names and shapes in PyTorch.
"""

from collections.abc import Callable
from typing import NamedTuple

from flax_attn import layers

Axes = tuple[int, ...]


class Leaf(NamedTuple):
    """The torch name of a leaf, and the axes that ``numpy.transpose`` takes from torch's layout to Flax's."""

    name: str
    axes: Callable[[int], Axes] = lambda ndim: tuple(range(ndim))


def conv_kernel(ndim: int) -> Axes:
    """torch (out, in/groups, *k) -> Flax (*k, in/groups, out)"""
    return (*range(2, ndim), 1, 0)


def conv_transpose_kernel(ndim: int) -> Axes:
    """torch (in, out/groups, *k) -> Flax (*k, in, out/groups)"""
    return (*range(2, ndim), 0, 1)


def linear_kernel(ndim: int) -> Axes:
    """torch (out, in) -> Flax (in, out)"""
    return (1, 0)


def channels_last(ndim: int) -> Axes:
    """torch (c, *space) -> Flax (*space, c)"""
    return (*range(1, ndim), 0)


COUNTER = "num_batches_tracked"
STATISTICS = {"mean": Leaf("running_mean"), "var": Leaf("running_var")}

RULES: dict[type, dict[str, Leaf]] = {
    layers.Conv: {"kernel": Leaf("weight", conv_kernel), "bias": Leaf("bias")},
    layers.ConvTranspose: {"kernel": Leaf("weight", conv_transpose_kernel), "bias": Leaf("bias")},
    layers.Linear: {"kernel": Leaf("weight", linear_kernel), "bias": Leaf("bias")},
    layers.Embedding: {"embedding": Leaf("weight")},
    layers.BatchNorm: {"scale": Leaf("weight"), "bias": Leaf("bias"), **STATISTICS, COUNTER: Leaf(COUNTER)},
    layers.InstanceNorm: {"scale": Leaf("weight"), "bias": Leaf("bias"), **STATISTICS},
    layers.FrozenBatchNorm2d: {"scale": Leaf("weight"), "bias": Leaf("bias"), **STATISTICS},
    layers.LayerNorm: {"scale": Leaf("weight", channels_last), "bias": Leaf("bias", channels_last)},
    layers.RMSNorm: {"scale": Leaf("weight", channels_last)},
    layers.GroupNorm: {"scale": Leaf("weight"), "bias": Leaf("bias")},
}

DROPPED = (COUNTER,)
"""The last part of torch keys without a Flax leaf: the batch counter of BatchNorm.

Only a BatchNorm with ``momentum=None`` reads its counter. It has a leaf for it, which is 0 if the key is missing.
"""


def leaf_rule(owner: type, name: str) -> Leaf:
    """The rule for leaf ``name`` of a module of class ``owner``."""
    for cls in owner.__mro__:
        if cls in RULES:
            return RULES[cls][name]
    return Leaf(name)


def dropped(key: str) -> bool:
    """Whether a torch key has no Flax leaf, and is dropped."""
    return key.rpartition(".")[2] in DROPPED
