"""Makes the constructors of the published networks, such as ``resnet50``.

A constructor takes every argument of its class, with the defaults of its network::

    @constructor(ResNet, preprocess, block=Bottleneck, layers=(3, 4, 6, 3))
    def resnet50() -> None:
        \"""torchvision's ``resnet50``. It takes images (n, 224, 224, 3) ...\"""

``resnet50(num_classes=10, dtype=jnp.bfloat16)`` is then a ``ResNet``, and ``resnet50.preprocess`` makes its input.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, get_type_hints, overload, runtime_checkable

from flax_attn.layers import Module

M_co = TypeVar("M_co", bound=Module, covariant=True)

PRECISION = ("dtype", "param_dtype")
LINEN_ONLY = ("parent", "name", "outer")
"""Arguments of every class that say where a module is in another, so that a constructor does not take them."""


@runtime_checkable
class Constructor(Protocol[M_co]):
    """The function that makes a published network. ``preprocess`` is the published input pipeline."""

    __name__: str
    preprocess: Callable[..., Any]

    def __call__(self, num_classes: int = ..., **arguments: Any) -> M_co:
        """The network. Every argument has a default."""


@overload
def constructor(
    cls: type[M_co], preprocess: Callable[..., Any], inside: None = None, **defaults: Any
) -> Callable[[Callable[[], None]], Constructor[M_co]]: ...


@overload
def constructor(
    cls: type[Module], preprocess: Callable[..., Any], inside: type[M_co], **defaults: Any
) -> Callable[[Callable[[], None]], Constructor[M_co]]: ...


def constructor(cls: Any, preprocess: Callable[..., Any], inside: Any = None, **defaults: Any) -> Any:
    """The decorator of a documented function without a body: the function becomes a constructor of ``cls``.

    ``num_classes`` may be given by position, every other argument by its name only.

    Args:
        preprocess: the published input pipeline.
        inside: the class of a network that has a ``cls`` as its only argument: the result is such a network.
        defaults: the arguments in which the network differs from the defaults of ``cls``.

    The constructor raises TypeError for an argument that it does not take, and what ``cls`` raises for a bad value.
    """

    def decorate(function: Callable[[], None]) -> Any:
        signature = network_signature(cls, defaults, inside or cls)

        @functools.wraps(function)
        def build(*args: Any, **kwargs: Any) -> Any:
            given = bound_arguments(function.__name__, signature, args, kwargs)
            arguments = {**defaults, **given}
            if inside is None:
                return cls(**arguments)
            precision = {name: arguments.pop(name) for name in PRECISION if name in arguments}
            return inside(cls(**arguments), **precision)

        del build.__dict__["__wrapped__"]
        build.__dict__.update(__signature__=signature, preprocess=preprocess)
        build.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
        build.__annotations__["return"] = inside or cls
        return build

    return decorate


def network_signature(cls: Any, defaults: Mapping[str, Any], result: Any) -> inspect.Signature:
    """The signature of a constructor: the arguments of ``cls`` with the defaults of the network."""
    hints, found = get_type_hints(cls), []
    known = {name: p for name, p in inspect.signature(cls).parameters.items() if name not in LINEN_ONLY}
    if unknown := defaults.keys() - known:
        raise TypeError(f"{cls.__name__} has no argument {', '.join(sorted(unknown))}")
    for name, p in known.items():
        kind = p.POSITIONAL_OR_KEYWORD if name == "num_classes" else p.KEYWORD_ONLY
        default = defaults.get(name, p.default)
        found.append(inspect.Parameter(name, kind, default=default, annotation=hints[name]))
    return inspect.Signature(sorted(found, key=lambda p: p.kind), return_annotation=result)


def bound_arguments(
    who: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by their names. TypeError, with the names that ``who`` takes, for others."""
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{who}: {error}; it takes {', '.join(signature.parameters)}") from None
