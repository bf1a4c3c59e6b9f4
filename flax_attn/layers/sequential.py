"""``torch.nn.Sequential`` and ``ModuleList``: children called "0", "1", ... so that paths equal PyTorch's keys."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from flax_attn.layers.module import Module


class ModuleList(Module):
    """Modules and plain functions under their positions: ``ModuleList([a, relu, b])`` names ``a`` "0" and ``b`` "2".

    Linen would call a child of a field ``layers_0``; ``preserve_adopted_names`` makes it keep the name given here.
    """

    layers: Sequence[Callable[..., Any]]

    preserve_adopted_names = True

    def __post_init__(self) -> None:
        named = [
            layer.clone(parent=None, name=str(i)) if isinstance(layer, nn.Module) else layer
            for i, layer in enumerate(self.layers)
        ]
        object.__setattr__(self, "layers", tuple(named))
        super().__post_init__()

    def __getitem__(self, i: int) -> Callable[..., Any]:
        return self.layers[i]

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


class Sequential(ModuleList):
    """Apply ``layers`` one after another; modules are given ``train``, plain functions only ``x``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        for layer in self.layers:
            x = layer(x, train=train) if isinstance(layer, nn.Module) else layer(x)
        return x
