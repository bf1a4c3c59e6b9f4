"""Keeps parts of a network as they are: no update, no decay, and eval mode for their layers."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from flax_attn.layers.calls import frozen as on_purpose
from flax_attn.layers.module import require

EVAL = {"train": False, "training": False, "is_training": False, "deterministic": True, "use_running_average": True}
"""The arguments of modules that switch between training and evaluation, with their values in evaluation."""

WEIGHTS = ("kernel", "scale", "embedding")
"""The names of the parameters that PyTorch calls weight."""

SHOWN = 8
"""How many names a message lists."""


def frozen_leaves(params: Any, paths: Sequence[str], batch_stats: Any = None) -> Any:
    """Whether each parameter is frozen: a tree of bools in the form of ``params``.

    Args:
        params: the parameters of a network, nested dicts.
        paths: the paths of modules or parameters, such as "backbone", "layer1.0" or "fc.bias". A path stands for all
            that is inside; "layer1" does not stand for "layer10". A parameter may have its PyTorch key: "fc.weight"
            for "fc.kernel".
        batch_stats: the statistics. With them, a path may also be that of a BatchNorm without parameters.

    Raises:
        ValueError: if a path is that of nothing.
    """
    _check(params, paths, batch_stats)
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_named(dotted(path), paths), params)


def freeze(optimizer: optax.GradientTransformation, params: Any, paths: Sequence[str]) -> optax.GradientTransformation:
    """An optimizer that leaves some parameters as they are, to the bit, and has no state for them.

    It does not change how the layers work. ``train_step(..., frozen=paths)`` also runs them in eval mode, and so does
    ``frozen_calls`` in a step of your own.

    Args:
        optimizer: an optax transformation for the other parameters.
        params: the parameters of the network.
        paths: what to freeze, as in ``frozen_leaves``.

    Raises:
        ValueError: if a path is that of no parameter.
    """
    labels = jax.tree.map(lambda leaf: "frozen" if leaf else "trained", frozen_leaves(params, paths))
    return optax.partition({"trained": optimizer, "frozen": unchanged()}, labels)


def unchanged() -> optax.GradientTransformation:
    """Leaves parameters as they are, to the bit: the updates are -0.0. Adding +0.0 would change a -0.0."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda grad: jnp.full_like(grad, -0.0), updates), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


@contextmanager
def frozen_calls(paths: Sequence[str]) -> Iterator[None]:
    """Inside, the modules at these paths are called with ``train=False``, and all that is in them.

    BatchNorm uses its running statistics and does not move them, and Dropout does not drop. It works for modules of
    this package, for other linen modules with an argument ``train``, and for linen's own BatchNorm and Dropout::

        with frozen_calls(["backbone"]):
            out, updated = net.apply(variables, x, train=True, mutable=["batch_stats"])

    Args:
        paths: the paths of modules, such as "backbone" or "layer1.0".
    """
    with nn.intercept_methods(_Evaluating(tuple(paths))):
        yield


class _Evaluating:
    """A linen interceptor that calls the modules at ``paths`` in eval mode."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.paths = paths

    def __call__(self, call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if module.scope is None or not is_inside(".".join(module.path), self.paths):
            return call(*args, **kwargs)
        signature = inspect.signature(context.orig_method)
        given = signature.bind(*args, **kwargs)
        before = {each.name: getattr(module, each.name) for each in dataclasses.fields(module) if each.name in EVAL}
        fields = {name: EVAL[name] for name, value in before.items() if value is not None}
        given.arguments |= {name: EVAL[name] for name in signature.parameters if name in EVAL and name not in fields}
        try:
            _set(module, fields)
            with on_purpose():
                return call(*given.args, **given.kwargs)
        finally:
            _set(module, before)


def _set(module: nn.Module, fields: dict[str, Any]) -> None:
    """Set fields of a linen module, which are frozen otherwise."""
    for name, value in fields.items():
        object.__setattr__(module, name, value)


def dotted(path: Sequence[Any]) -> str:
    """The path of a leaf as ``jax.tree_util`` gives it, as text: "layer1.0.conv1.kernel"."""
    return ".".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def is_inside(path: str, paths: Sequence[str]) -> bool:
    """Whether ``path`` is one of ``paths``, or of something inside."""
    return any(path == outer or path.startswith(f"{outer}.") for outer in paths)


def _is_named(leaf: str, paths: Sequence[str]) -> bool:
    """Whether a parameter is inside one of ``paths``, by its own path or by its PyTorch key."""
    outer, _, name = leaf.rpartition(".")
    return is_inside(leaf, paths) or (name in WEIGHTS and is_inside(f"{outer}.weight", paths))


def _check(params: Any, paths: Sequence[str], batch_stats: Any) -> None:
    """ValueError for the paths that are those of no parameter and no statistic."""
    require(not isinstance(paths, str), f"freeze: expected a list of paths, got the text {paths!r}; write [{paths!r}]")
    trees = (params, batch_stats)
    leaves = [dotted(path) for tree in trees for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    unknown = [path for path in paths if not any(_is_named(leaf, [path]) for leaf in leaves)]
    if unknown:
        known = sorted({leaf.partition(".")[0] for leaf in leaves})
        more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
        raise ValueError(
            f"freeze: expected paths of parameters, such as {leaves[0]!r} or one that begins it, got "
            f"{', '.join(map(repr, unknown))}; the parameters begin with {', '.join(known[:SHOWN])}{more}"
        )
