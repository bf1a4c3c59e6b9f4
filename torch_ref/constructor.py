"""Makes the constructors of the published networks: the twin of flax_attn.constructor, without dtypes."""

import functools
import inspect


def constructor(cls, preprocess, inside=None, **defaults):
    def decorate(function):
        signature = network_signature(cls, defaults, inside or cls)

        @functools.wraps(function)
        def build(*args, **kwargs):
            given = bound_arguments(function.__name__, signature, args, kwargs)
            network = cls(**{**defaults, **given})
            return network if inside is None else inside(network)

        del build.__wrapped__
        build.__signature__, build.preprocess = signature, preprocess
        build.__annotations__ = {"return": inside or cls}
        return build

    return decorate


def network_signature(cls, defaults, result):
    found, known = [], inspect.signature(cls).parameters
    if unknown := defaults.keys() - known:
        raise TypeError(f"{cls.__name__} has no argument {', '.join(sorted(unknown))}")
    for name, p in known.items():
        kind = p.POSITIONAL_OR_KEYWORD if name == "num_classes" else p.KEYWORD_ONLY
        found.append(inspect.Parameter(name, kind, default=defaults.get(name, p.default)))
    return inspect.Signature(sorted(found, key=lambda p: p.kind), return_annotation=result)


def bound_arguments(who, signature, args, kwargs):
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{who}: {error}; it takes {', '.join(signature.parameters)}") from None
