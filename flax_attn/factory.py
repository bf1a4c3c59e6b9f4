"""Networks and attention blocks by their names."""

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, get_type_hints

from flax_attn.blocks.bam import BAM
from flax_attn.blocks.cbam import CBAM, ChannelGate, SpatialGate
from flax_attn.blocks.criss_cross import CrissCrossAttention
from flax_attn.blocks.danet import CAM_Module, PAM_Module
from flax_attn.blocks.esa import ESABlock
from flax_attn.blocks.non_local import (
    ConcatenationNonLocalBlock,
    DotProductNonLocalBlock,
    GaussianNonLocalBlock,
    NONLocalBlock2D,
)
from flax_attn.blocks.polarized import (
    ParallelPolarizedSelfAttention,
    PSA_p,
    PSA_s,
    SequentialPolarizedSelfAttention,
)
from flax_attn.blocks.se import SELayer
from flax_attn.blocks.sge import SpatialGroupEnhance
from flax_attn.catalog import PUBLISHED, close_names, second_names
from flax_attn.layers import Module
from flax_attn.models.digits_net import DigitsNet

Arguments = Callable[[int], dict[str, Any]]

ATTENTIONS: dict[str, tuple[type[Module], Arguments]] = {
    "bam": (BAM, lambda c: dict(gate_channel=c)),
    "cam": (CAM_Module, lambda c: dict(in_dim=c)),
    "cbam": (CBAM, lambda c: dict(gate_channels=c)),
    "channel_gate": (ChannelGate, lambda c: dict(gate_channels=c)),
    "criss_cross": (CrissCrossAttention, lambda c: dict(in_dim=c)),
    "esa": (ESABlock, lambda c: dict(dim=c)),
    "non_local": (NONLocalBlock2D, lambda c: dict(in_channels=c)),
    "non_local_concatenation": (ConcatenationNonLocalBlock, lambda c: dict(in_channels=c, dimension=2)),
    "non_local_dot_product": (DotProductNonLocalBlock, lambda c: dict(in_channels=c, dimension=2)),
    "non_local_gaussian": (GaussianNonLocalBlock, lambda c: dict(in_channels=c, dimension=2)),
    "pam": (PAM_Module, lambda c: dict(in_dim=c)),
    "polarized": (ParallelPolarizedSelfAttention, lambda c: dict(channel=c)),
    "polarized_sequential": (SequentialPolarizedSelfAttention, lambda c: dict(channel=c)),
    "psa_p": (PSA_p, lambda c: dict(inplanes=c, planes=c)),
    "psa_s": (PSA_s, lambda c: dict(inplanes=c, planes=c)),
    "se": (SELayer, lambda c: dict(channel=c)),
    "sge": (SpatialGroupEnhance, lambda c: dict(groups=math.gcd(64, c))),
    "spatial_gate": (SpatialGate, lambda _: {}),
}
"""For each short name, a block that keeps the shape of an image, and its arguments for a number of channels."""


def create_model(name: str, **arguments: Any) -> Module:
    """The network called ``name``, such as ``create_model("resnet50", num_classes=10)``.

    ``list_models()`` lists the names. A class, such as ``ResNet``, may be named too. ``arguments`` are those of the
    constructor or of the class.

    Raises:
        ValueError: if no network has this name; the message has the most similar names. Also what the network raises
            for a bad value.
        TypeError: if the network has no such argument.
    """
    return _find(name, {**_networks(), **_classes()}, "network", "list_models()")(**arguments)


def list_models(filter: str = "*") -> list[str]:
    """The sorted names of the published networks and of their classes that match ``filter``, such as "*se*".

    Upper and lower case are the same to the filter. A class with a constructor of its own name is listed once, by the
    name of the constructor.
    """
    classes = _classes().keys() - second_names().keys()
    return _matching(_networks().keys() | classes, filter)


def create_attention(name: str, channels: int, **arguments: Any) -> Module:
    """The attention block called ``name`` for images (n, h, w, channels); its result has the same shape.

    Args:
        name: a short name that ``list_attentions()`` lists, such as "se" or "cbam", or the name of the class.
        arguments: more arguments of the class, such as ``reduction=4`` for "se".

    Raises:
        ValueError: if no block has this name; the message has the most similar names. Also what the block raises for a
            bad value, such as too few channels.
        TypeError: if the block has no such argument.
    """
    classes = {cls.__name__: (cls, given) for cls, given in ATTENTIONS.values()}
    cls, given = _find(name, {**ATTENTIONS, **classes}, "attention block", "list_attentions()")
    return cls(**{**given(channels), **arguments})


def list_attentions(filter: str = "*") -> list[str]:
    """The sorted short names of the attention blocks that match ``filter``, such as "*local*"."""
    return _matching(ATTENTIONS, filter)


def _networks() -> dict[str, Callable[..., Module]]:
    return {entry.name: entry.cls for entry in PUBLISHED}


def _classes() -> dict[str, Callable[..., Module]]:
    classes = [DigitsNet, *(get_type_hints(make)["return"] for make in _networks().values())]
    return {cls.__name__: cls for cls in classes}


def _find(name: str, known: Mapping[str, Any], kind: str, listing: str) -> Any:
    if name not in known:
        raise ValueError(f"no {kind} is called {name!r}{close_names(name, known)}; {listing} lists the names")
    return known[name]


def _matching(names: Iterable[str], filter: str) -> list[str]:
    return sorted(name for name in names if fnmatchcase(name.lower(), filter.lower()))
