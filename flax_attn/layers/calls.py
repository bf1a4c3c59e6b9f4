"""Warns when a network is called with ``train=True``, but some layers inside are called with ``train=False``.

It watches the calls while they are traced, and so costs nothing when a compiled network runs."""

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_attn.layers.arguments import brief

OWN = "flax_attn."
"""What the names of the files of this package begin with. A class of a user may take numpy arrays as constants."""

SHOWN = 3
"""How many layers a warning names."""


@dataclass
class Frame:
    """A call that has not returned: of which module, and with which ``train``; None where that is not known."""

    module: Any
    train: bool | None


@dataclass
class Calls(threading.local):
    """The calls of one thread: those that have not returned, and the layers that were not told to train."""

    frames: list[Frame] = field(default_factory=list)
    forgotten: dict[str, str] = field(default_factory=dict)
    frozen: int = 0


CALLS = Calls()


@contextmanager
def frozen() -> Iterator[None]:
    """Say that the calls inside leave out ``train=True`` on purpose, so that no warning follows.

    For a network that trains while a part of it stays as it is::

        with frozen():
            x = self.backbone(x)
    """
    CALLS.frozen += 1
    try:
        yield
    finally:
        CALLS.frozen -= 1


def takes_train(cls: type) -> bool:
    """Whether the call of a module of class ``cls`` has an argument ``train``."""
    return "train" in inspect.signature(cls.__call__).parameters


def watched(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, the ``__call__`` of a module, noting whether its ``train`` reaches the layers inside."""
    parameters = inspect.signature(call).parameters
    by_position = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    takes = "train" in parameters
    default = parameters["train"].default if takes else None

    @functools.wraps(call)
    def watching(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.check_call()
        given = {**dict(zip(by_position, args, strict=False)), **kwargs}.get("train", default)
        train = checked_train(self, given, default) if takes else None
        if type(self).__module__.startswith(OWN):
            args, kwargs = tuple(map(on_jax, args)), {name: on_jax(value) for name, value in kwargs.items()}
            if args and is_list_of_numbers(args[0]):
                raise ValueError(f"{type(self).__name__}: expected an array, got a {type(args[0]).__name__} of numbers")
        frames = CALLS.frames
        frames.append(Frame(self, train if train is not None or not frames else frames[-1].train))
        try:
            _note(frames)
            result = call(self, *args, **kwargs)
            if len(frames) == 1 and CALLS.forgotten:
                _warn(type(self).__name__, CALLS.forgotten)
            return result
        finally:
            frames.pop()
            if not frames:
                CALLS.forgotten = {}

    return watching


def on_jax(value: Any) -> Any:
    """An array of numpy as one of JAX, so that all arithmetic is JAX's; anything else as it is."""
    return jnp.asarray(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biufcV" else value


def is_list_of_numbers(value: Any) -> bool:
    """Whether ``value`` is a list or tuple that begins with a number of Python, however deep."""
    if not isinstance(value, list | tuple):
        return False
    while isinstance(value, list | tuple) and len(value):
        value = value[0]
    return isinstance(value, int | float)


def checked_train(module: Any, given: Any, default: Any) -> bool | None:
    """``train`` of a call, if it is a bool; None for the default of a user's module, and for a traced bool in a module
    that does the same in training.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(given, bool):
        return given
    if given is default:
        return None
    if type(given).__name__ in ("bool", "bool_") and type(given).__module__ == "numpy":
        return bool(given)
    who = type(module).__name__
    if isinstance(given, jax.core.Tracer) and not module.follows_train:
        return None
    if hasattr(given, "aval"):
        raise ValueError(f"{who}: expected train to be True or False, got an array of JAX; use static_argnames='train'")
    raise ValueError(f"{who}: expected train to be True or False, got {brief(given)}")


def _note(frames: list[Frame]) -> None:
    """Note the outermost module that lost ``train`` on the way to a layer that works differently in training."""
    module, train = frames[-1].module, frames[-1].train
    if CALLS.frozen or train is not False or not frames[0].train or module.scope is None or not module.follows_train:
        return
    lost = next(frame.module for frame in frames if frame.train is False)
    CALLS.forgotten[".".join(lost.path)] = type(lost).__name__


def _warn(who: str, forgotten: dict[str, str]) -> None:
    """One warning for all layers."""
    named = [f"{cls} at '{path}'" for path, cls in forgotten.items()]
    more = [f"{len(named) - SHOWN} more"] if len(named) > SHOWN else []
    warnings.warn(
        f"{who}: called with train=True, but train=False reached {', '.join([*named[:SHOWN], *more])}, where BatchNorm "
        f"and Dropout now do not train; hand train on, as in layer(x, train), or call the layer "
        "inside `with flax_attn.layers.frozen():`",
        stacklevel=3,
    )
