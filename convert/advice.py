"""What the likely cause is when a state dict does not fit a module: one line above the list of differences."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import flax.linen as nn

from convert.prefix_hint import prefix_hint

Path = tuple[str, ...]
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

INSTEAD = {
    "BatchNorm": "BatchNorm1d, BatchNorm2d or BatchNorm3d",
    "Conv": "Conv{}d",
    "ConvTranspose": "ConvTranspose{}d",
    "Dense": "Linear",
    "DenseGeneral": "Linear",
    "Einsum": "Linear",
    "Embed": "Embedding",
    "GroupNorm": "GroupNorm",
    "LayerNorm": "LayerNorm",
}
"""The layer here for a layer of linen; {} stands for the number of axes of the kernel."""


def foreign_layers(leaves: Iterable[tuple[Path, Shape]], owners: Mapping[Path, type]) -> list[str]:
    """A line for each layer of linen that has leaves. Their names and layouts are not those of PyTorch's layers.

    Args:
        leaves: the path of each leaf, without the collection, and its shape.
        owners: the class of the module at each path.
    """
    ranks: dict[Path, int] = {}
    for (*parents, _), shape in leaves:
        ranks[tuple(parents)] = max(len(shape), ranks.get(tuple(parents), 0))
    found = {path: _linen(owners[path]) for path in ranks}
    return [f"* {'.'.join(path) or name}: {_instead(name, ranks[path])}" for path, name in found.items() if name]


def _linen(owner: type) -> str:
    """The name of the layer of linen that ``owner`` is or derives from; empty if there is none."""
    names = (cls.__name__ for cls in owner.__mro__ if cls is not nn.Module and vars(nn).get(cls.__name__) is cls)
    return next(names, "")


def _instead(name: str, rank: int) -> str:
    """What to use instead of the layer of linen called ``name``, whose kernel has ``rank`` axes."""
    layer = INSTEAD.get(name, "").format(max(rank - 2, 1))
    remedy = f"use flax_attn.layers.{layer}" if layer else "write it with the layers of flax_attn.layers"
    return f"flax.linen.{name} does not have the keys of PyTorch's layers; {remedy}"


def variables_advice(expected: Mapping[Path, Shape], found: Mapping[Path, Shape]) -> str:
    """The likely cause where the leaves ``found`` are not those that are ``expected``; empty where none is known."""
    lost = sorted({path[0] for path in expected} - {path[0] for path in found})
    if found and lost:
        return f"the variables have no {' and no '.join(lost)}; pass all collections, as module.init returns them"
    copies = {shape[0] for shape in found.values() if shape}
    if len(copies) == 1 and found == {path: (*copies, *shape) for path, shape in expected.items()}:
        return "each leaf has one more axis, as on several devices; pass jax.tree.map(lambda x: x[0], variables)"
    return ""


def advice(
    expected: Shapes,
    found: Shapes,
    stored: Shapes,
    *,
    training: Callable[[], Shapes],
    moved: Callable[[], Iterable[tuple[Shapes, str]]],
) -> str:
    """The likely cause of the differences, and what to do; empty where none is known.

    Args:
        expected: the shapes that the module has, by PyTorch's keys.
        found: the shapes in the state dict.
        stored: the shapes of the Flax leaves, by PyTorch's keys.
        training: computes what ``expected`` is with ``train=True``.
        moved: computes what ``expected`` is with the channels of the example inputs on another axis, and what to say
            if that fits.
    """
    missing = [key for key in expected if key not in found]
    surplus = [key for key in found if key not in expected]
    wrong = [key for key in expected if key in found and found[key] != expected[key]]
    if missing and surplus:
        known = prefix_hint(expected, found) or _plain_list(missing, surplus)
        if known:
            return known
    if surplus and any(key in training() for key in surplus):
        first = next(key for key in surplus if key in training())
        remedy = "call from_torch with train=True, or let the network call it `if train or self.is_initializing():`"
        return f"{first!r} belongs to a module that is called only with train=True; {remedy}"
    if not wrong:
        return ""
    turned = () if missing or surplus else moved()
    known = next((text for shapes, text in turned if shapes == found), "")
    return known or _layout(wrong[0], expected, found, stored=stored)


def _plain_list(missing: Sequence[str], surplus: Iterable[str]) -> str:
    """Children that linen calls ``layers_0``, because they are in a plain list."""
    surplus = set(surplus)
    for key in missing:
        for match in re.finditer(r"_([^._]+)\.", key):
            other = f"{key[: match.start()]}.{match[1]}.{key[match.end() :]}"
            if other in surplus:
                remedy = "put the modules into flax_attn.layers." + (
                    "ModuleList" if match[1].isdigit() else "ModuleDict"
                )
                return f"{key!r} is {other!r} in PyTorch, and belongs to a plain list or dict of modules; {remedy}"
    return ""


def _layout(key: str, expected: Shapes, found: Shapes, *, stored: Shapes) -> str:
    """Axes in another order, or axes of length 1 more or less."""
    want, got = expected[key], found[key]
    if got == stored[key]:
        return f"{key!r} has the axes of Flax, {got}; from_torch takes PyTorch's, {want}"
    if len(got) > 2 and got == (want[1], want[0], *want[2:]):
        return f"the first two axes of {key!r} are swapped: one side has a Conv, the other a ConvTranspose"
    if sorted(got) == sorted(want) and len(got) > 1:
        return f"the axes of {key!r} are in another order; from_torch takes PyTorch's, {want}"
    long, short = sorted((want, got), key=len, reverse=True)
    if len(short) == 2 and long == (*short, *[1] * (len(long) - 2)) and long != short:
        return f"{key!r} differs by axes of length 1: one side has a Linear, the other a Conv with kernel size 1"
    return ""
