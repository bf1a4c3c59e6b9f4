"""The attention maps of all blocks of a network, from one call."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn

from flax_attn.blocks.attention import MultiheadAttention

COLLECTION = "attention_maps"
NAME = "attention_weights"
KEYWORDS = ("attention_weights", "need_weights")
ALIAS = "return_nl_map"


def attention_maps(module: nn.Module, variables: Any, *inputs: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """The output of a network in eval mode, and the attention maps of the blocks in it.

    The network may be any linen module. Its output is that of ``module.apply(variables, *inputs, **kwargs)``. Every
    block that takes the keyword ``attention_weights``, or ``need_weights``, is called with it, but the module around it
    receives what it asked for. The function may be compiled: ``jax.jit(partial(attention_maps, module))``.

    Args:
        variables: the variables of ``module``.
        inputs: the positional arguments of its call.
        kwargs: the keyword arguments of ``module.apply``, but for ``mutable``.

    Returns:
        The output and a dict. Its keys are the paths of the blocks, such as "layer1.0.se". The path of ``module``
        itself is "". The maps of a block are what it returns behind its output: one array or, where it returns several,
        a tuple. A block that is called more than once has a list, with the maps of each call in turn. A block inside of
        a block with maps is not listed: its maps are those of the outer one.

    Raises:
        TypeError: if ``kwargs`` has ``mutable`` or an argument that the network does not take.
    """
    with nn.intercept_methods(_Collector()):
        out, state = module.apply(variables, *inputs, mutable=[COLLECTION], **kwargs)
    return out, dict(_by_path(state.get(COLLECTION, {})))


class _Collector:
    """A linen interceptor: the outermost blocks with maps store them in a collection."""

    def __init__(self) -> None:
        self.inside = False

    def __call__(self, call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        signature = inspect.signature(context.orig_method)
        asks = keyword(signature)
        if self.inside or context.method_name != "__call__" or asks is None:
            return call(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        asked = any(given.arguments.get(name, False) for name in (asks, ALIAS))
        given.arguments[asks] = True
        self.inside = True
        try:
            out, *maps = result = call(*given.args, **given.kwargs)
        finally:
            self.inside = False
        context.module.sow(COLLECTION, NAME, maps[0] if len(maps) == 1 else tuple(maps))
        if asked:
            return result
        return (out, None) if isinstance(context.module, MultiheadAttention) else out


def keyword(signature: inspect.Signature) -> str | None:
    """The keyword that makes a block return its maps. Its default is a bool: an input of the same name has another."""
    for name in KEYWORDS:
        if name in signature.parameters and isinstance(signature.parameters[name].default, bool):
            return name
    return None


def _by_path(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The stored maps, each with the path of its block."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _by_path(value, (*path, name))
        else:
            yield ".".join(path), value[0] if len(value) == 1 else list(value)
