"""Calls a module on a batch: with or without ``train``, in a dtype to compute in, with a key for each random stream."""

import dataclasses
import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from flax_attn.layers.calls import CALLS, takes_train
from flax_attn.layers.module import Module, accumulator, require
from flax_attn.training.freezing import EVAL, dotted, frozen_calls, is_inside

STREAMS = ("dropout", "sample")
"""The random streams of the modules of this package."""


def only_x(batch: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments of a module for a batch that holds its one input as "x"."""
    if not isinstance(batch, Mapping) or "x" not in batch:
        got = f"the keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f'batch: expected a dict with the input as "x", got {got}; give inputs=lambda batch: (...,)')
    return (batch["x"],)


def stream_key(rng: Array, step: Any, name: str) -> Array:
    """The key from which the random stream ``name`` draws in a step: rng, with step and the CRC-32 of the name."""
    return jax.random.fold_in(jax.random.fold_in(rng, step), zlib.crc32(name.encode()))


@dataclasses.dataclass(frozen=True)
class Network:
    """A module, and how it is called.

    Args:
        module: a linen module.
        inputs: gives the arguments of its call for a batch.
        dtype: the dtype to compute in, or None.
        frozen: the paths of modules that are called in eval mode.
        streams: the names of the random streams.
    """

    module: nn.Module
    inputs: Callable[[Any], Any] = only_x
    dtype: DTypeLike | None = None
    frozen: Sequence[str] = ()
    streams: Sequence[str] = STREAMS

    def __post_init__(self) -> None:
        who, module = type(self.module).__name__, self.module
        require(isinstance(module, nn.Module), f"module: expected an instance of a linen module, got {who}")
        text = f"streams: expected a list of names, got the text {self.streams!r}; write [{self.streams!r}]"
        require(not isinstance(self.streams, str), text)
        others = [name for name in EVAL if name != "train" and name in inspect.signature(module.__call__).parameters]
        require(
            self.takes_train or not others,
            f"{who}: expected a call with the argument train, got {', '.join(others)}; "
            "put the module into one whose call takes train",
        )

    @property
    def takes_train(self) -> bool:
        """Whether the call of the module has an argument ``train``."""
        return takes_train(type(self.module))

    def train(self, params: Any, batch_stats: Any, batch: Any, keys: Mapping[str, Array]) -> tuple[Any, Any]:
        """The outputs for a batch in training, in float32 at least, and the new statistics.

        Raises:
            ValueError: if layers work differently in training, but the call of the module has no ``train``; if the
                statistics are not all those that the module has.
        """
        with frozen_calls(self.frozen), self._watched():
            outputs, updated = self._call(params, batch_stats, batch, train=True, rngs=keys, mutable=["batch_stats"])
        new = _same_names(type(self.module).__name__, batch_stats, updated.get("batch_stats", {}))
        return outputs, jax.tree_util.tree_map_with_path(
            lambda path, old, moved: old if is_inside(dotted(path), self.frozen) else moved, batch_stats, new
        )

    def evaluate(self, variables: Mapping[str, Any], batch: Any, keys: Mapping[str, Array]) -> Any:
        """The outputs for a batch in eval mode, in float32 at least."""
        return self._call(variables["params"], variables.get("batch_stats", {}), batch, train=False, rngs=keys)

    def keys(self, rng: Array, step: Any) -> dict[str, Array]:
        """The key of each random stream in a step."""
        return {name: stream_key(rng, step, name) for name in self.streams}

    def _call(self, params: Any, batch_stats: Any, batch: Any, train: bool, **options: Any) -> Any:
        module, given = self.module, self.inputs(batch)
        require(
            isinstance(given, tuple | list | Mapping),
            f"inputs: expected a tuple of arguments or a dict of keywords, got {type(given).__name__}",
        )
        if self.dtype is not None and any(each.name == "dtype" for each in dataclasses.fields(module)):
            module = module.clone(dtype=self.dtype)
        elif self.dtype is not None:
            params, given = _floats_as((params, given), lambda _: self.dtype)
        args, kwargs = ((), dict(given)) if isinstance(given, Mapping) else (given, {})
        kwargs |= {"train": train} if self.takes_train else {}
        variables = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
        result = module.apply(variables, *args, **kwargs, **options)
        outputs, updated = result if "mutable" in options else (result, {})
        outputs = _floats_as(outputs, accumulator)
        return (outputs, updated) if "mutable" in options else outputs

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Refuse a module without ``train`` that holds layers that need it."""
        if self.takes_train:
            yield
        else:
            with nn.intercept_methods(_NeedsTrain(type(self.module).__name__)):
                yield


class _NeedsTrain:
    """A linen interceptor that refuses layers that work differently in training and are not told to train."""

    def __init__(self, who: str) -> None:
        self.who = who

    def __call__(self, call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        layer = context.module
        if isinstance(layer, Module) and context.method_name == "__call__" and layer.follows_train and not CALLS.frozen:
            given = inspect.signature(context.orig_method).bind(*args, **kwargs).arguments
            require(
                bool(given.get("train")),
                f"{self.who}: expected a call with the argument train, got one without, though {type(layer).__name__} "
                f"at '{'.'.join(layer.path)}' works differently in training; add train: bool = False and hand it on",
            )
        return call(*args, **kwargs)


def _floats_as(tree: Any, dtype: Callable[[Any], Any]) -> Any:
    """The floating point arrays of a tree in another dtype, and anything else as it is."""

    def cast(leaf: Any) -> Any:
        is_float = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype(leaf.dtype)) if is_float else leaf

    return jax.tree.map(cast, tree)


def _same_names(who: str, old: Any, new: Any) -> Any:
    """``new``, in the form of ``old``, if they have the same names."""
    before, after = ({dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)} for tree in (old, new))
    missing = sorted(after - before)
    require(
        not missing,
        f"{who}: expected all its statistics in batch_stats, {', '.join(missing[:8])} is missing; "
        "create the state from what module.init returns",
    )
    return jax.tree.unflatten(jax.tree.structure(old), jax.tree.leaves(new)) if new else old
