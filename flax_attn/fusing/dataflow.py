"""Finds, in the trace of a call, which normalizations take the output of one convolution that nothing else reads.

Each layer marks its input and its output in the trace. The marks say which operations belong to which layer, and so
who else reads the output of a convolution, or a leaf of a layer.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
from flax import traverse_util
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from flax_attn.layers import (
    BatchNorm,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    FrozenBatchNorm2d,
    Linear,
)
from flax_attn.layers.conv import Conv, ConvTranspose
from flax_attn.layers.grouped import HeadMixer

Path = tuple[str, ...]

PRODUCTS = (Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, HeadMixer, Linear)
"""The layers whose output may be scaled through their leaves. Another subclass may use its leaves in another way."""

LEAVES = ("kernel", "scale", "bias", "mean", "var", "num_batches_tracked")

TAG = "flax_attn layer "

_NORM_CALLS = [inspect.unwrap(cls.__call__) for cls in (BatchNorm, FrozenBatchNorm2d)]
_PRODUCT_CALLS = [inspect.unwrap(cls.__call__) for cls in (Conv, ConvTranspose, Linear)]


def is_norm_call(context: nn.module.InterceptorContext) -> bool:
    """Whether an interceptor sees the normalization itself, and not what a subclass does around it."""
    return _function(context) in _NORM_CALLS


def call_arguments(context: nn.module.InterceptorContext, args: tuple, kwargs: dict) -> tuple[Any, Any]:
    """The input and ``train`` of the call of a layer."""
    given = inspect.signature(context.orig_method).bind(*args, **kwargs).arguments
    return given["x"], given.get("train", False)


def _is_product_call(context: nn.module.InterceptorContext) -> bool:
    return type(context.module) in PRODUCTS and _function(context) in _PRODUCT_CALLS


def _function(context: nn.module.InterceptorContext) -> Any:
    """The function that a class defines, without what linen and this package put around it."""
    return inspect.unwrap(cast(partial, context.orig_method).func)


@dataclass
class Layer:
    """A layer that was called.

    Args:
        module: a copy of it that is not bound.
        shapes: the shapes of its leaves, as it saw them.
        calls: the numbers of its calls.
        train: whether a call was for training.
    """

    module: nn.Module
    shapes: Mapping[Path, tuple[int, ...]]
    calls: list[int] = field(default_factory=list)
    train: bool = False

    @property
    def is_product(self) -> bool:
        """Whether it is a convolution or a linear layer."""
        return type(self.module) in PRODUCTS

    @property
    def is_constant(self) -> bool:
        """Whether it multiplies and adds numbers that come from its leaves alone."""
        return "var" in {path[-1] for path in self.shapes} and not (self.train and isinstance(self.module, BatchNorm))


@dataclass
class _Marker:
    """A linen interceptor that marks, in the trace of a network, where each layer begins and ends.

    A convolution that computes some of its outputs only is not marked, and so never folded.
    """

    layers: dict[Path, Layer] = field(default_factory=dict)
    count: int = 0

    def __call__(self, call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if not (is_norm_call(context) or (_is_product_call(context) and kwargs.get("outputs") is None)):
            return call(*args, **kwargs)
        x, train = call_arguments(context, args, kwargs)
        module, number = context.module, self.count
        if module.path not in self.layers:
            self.layers[module.path] = Layer(module.clone(parent=None), _shapes(module))
        layer = self.layers[module.path]
        layer.calls.append(number)
        layer.train |= bool(train)
        self.count += 1
        y = call(checkpoint_name(x, f"{TAG}{number} in"), train)
        return checkpoint_name(y, f"{TAG}{number} out")


def _shapes(module: nn.Module) -> dict[Path, tuple[int, ...]]:
    """The shapes of the leaves of a bound layer, by their path in the variables of the network."""
    tree = nn.meta.unbox(module.variables)
    leaves = {(name, *module.path, leaf): value for name in tree for leaf, value in tree[name].items()}
    return {path: value.shape for path, value in leaves.items() if path[-1] in LEAVES}


class _Graph:
    """The outermost level of a trace: who reads which value, and at which place each layer begins and ends."""

    def __init__(self, jaxpr: Any, leaves: Iterable[Path]) -> None:
        self.equations = jaxpr.eqns
        self.leaves = dict(zip(leaves, jaxpr.invars, strict=False))
        self.readers: dict[Any, list[int]] = defaultdict(list)
        self.marks: dict[str, int] = {}
        for i, (name, read) in enumerate([*((_mark(e), e.invars) for e in jaxpr.eqns), ("", jaxpr.outvars)]):
            self.marks[name] = i
            for value in read:
                if not isinstance(value, Literal):
                    self.readers[value].append(i)

    def span(self, number: int) -> range:
        """The places of the operations of a call; none if it is inside of a loop, of ``nn.remat`` or the like."""
        start, end = (self.marks.get(f"{TAG}{number} {word}") for word in ("in", "out"))
        return range(0) if start is None or end is None else range(start, end + 1)

    def owns_its_leaves(self, layer: Layer, variables: Mapping[Path, Any]) -> bool:
        """Whether all calls of a layer are here, and nobody else reads its leaves."""
        spans = [self.span(number) for number in layer.calls]
        readers = [i for leaf in layer.shapes for i in self.readers[self.leaves[leaf]]]
        fits = all(variables[leaf].shape == shape for leaf, shape in layer.shapes.items())
        return fits and all(spans) and all(any(i in span for span in spans) for i in readers)

    def feeds(self, layer: Layer, norm: Layer) -> bool:
        """Whether the one call of ``norm`` alone reads the output of the one call of ``layer``."""
        if len(layer.calls) > 1 or len(norm.calls) > 1:
            return False
        output = self.equations[self.span(layer.calls[0])[-1]].outvars[0]
        return self.readers[output] == [self.span(norm.calls[0])[0]]


def _mark(equation: Any) -> str:
    """The text of a mark; empty for any other operation."""
    name = equation.params.get("name", "") if equation.primitive.name == "name" else ""
    return name if name.startswith(TAG) else ""


@dataclass(frozen=True)
class Found:
    """What the trace of one call of a network shows.

    Args:
        layers: all convolutions, linear layers and normalizations that were called, by their path.
        norms: the normalizations that only multiply and add constants. Each has the path of the convolution whose
            output it alone reads, or None.
    """

    layers: Mapping[Path, Layer]
    norms: Mapping[Path, Path | None]


def find(module: nn.Module, variables: Mapping[Path, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Found:
    """Trace a call of ``module``. Nothing is computed.

    Args:
        variables: arrays, or their shapes, by their path.
        args: example inputs, arrays or their shapes, and other arguments of the call.
        kwargs: the same by name.
    """
    leaves, form = jax.tree.flatten((args, dict(kwargs)))
    marker = _Marker()

    def run(variables: dict[Path, Any], arrays: list[Any]) -> list[Any]:
        rest = iter(arrays)
        args, kwargs = jax.tree.unflatten(form, [next(rest) if is_array(leaf) else leaf for leaf in leaves])
        tree = traverse_util.unflatten_dict(variables)
        with nn.intercept_methods(marker):
            out = module.apply(tree, *args, rngs={"params": jax.random.key(0)}, **kwargs)
        return [leaf for leaf in jax.tree.leaves(out) if is_array(leaf)]

    jaxpr = jax.make_jaxpr(run)(dict(variables), [leaf for leaf in leaves if is_array(leaf)]).jaxpr
    graph = _Graph(jaxpr, sorted(variables))
    own = {path: layer for path, layer in marker.layers.items() if graph.owns_its_leaves(layer, variables)}
    products = [path for path, layer in own.items() if layer.is_product]
    norms: dict[Path, Path | None] = {}
    for path in [path for path, layer in own.items() if layer.is_constant]:
        norms[path] = next((product for product in products if graph.feeds(own[product], own[path])), None)
    return Found(marker.layers, norms)


def is_array(leaf: Any) -> bool:
    """Whether a leaf of the arguments of a call is an array or the shape of one."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")
