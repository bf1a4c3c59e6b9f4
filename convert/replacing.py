"""Leaves that a state dict does not give, because they are named: they keep the initial values of the module."""

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from convert.planning import Path, Row
from convert.precision import Precision
from convert.renaming import Translation
from convert.tensors import Lazy
from flax_attn.names import close_names

Initial = Callable[[Any, Sequence[Path]], Mapping[Path, Any]]
"""The leaves of ``module.init`` with a key, at the paths that are asked for."""


@dataclass(frozen=True)
class Replaced:
    """The prefixes of keys, by the names here, whose leaves are new.

    Args:
        prefixes: each covers the key of this name and all keys below it. "fc" covers "fc.weight", not "fc2.weight".
    """

    prefixes: tuple[str, ...] = ()

    def covers(self, key: str) -> bool:
        """Whether the leaf ``key`` is new."""
        return any(key == prefix or key.startswith(f"{prefix}.") for prefix in self.prefixes)

    def without(self, keyed: Mapping[str, Any]) -> dict[str, Any]:
        """``keyed`` without the keys that are covered."""
        return {key: value for key, value in keyed.items() if not self.covers(key)}

    def untouched(self, translation: Translation) -> Translation:
        """``translation`` without the arrays that are covered, and without the problems with them."""
        gone = [key for key in translation.entries if self.covers(key)]
        names = [", ".join(translation.entries[key].origins) for key in gone]
        twice = [line for line in translation.problems if line.startswith(tuple(f"* {key}: " for key in gone))]
        names += [text for line in twice for text in line.partition(": comes from ")[2].split(" and from ")]
        begins = tuple(f"{mark} {text}: " for text in names for mark in "~+")
        ends = tuple(f": expected beside {text}, found nothing" for text in names)
        rest = [line for line in translation.problems if line not in twice]
        left = [line for line in rest if not line.startswith(begins) and not line.endswith(ends)]
        return Translation(self.without(translation.entries), left)


def replaced_of(
    replace: str | Sequence[str], rows: Mapping[str, Row], who: str, expected: str = "from_torch: expected replace"
) -> Replaced:
    """The prefixes ``replace``; one alone may be a string.

    Args:
        rows: every key of the state dict with its row.
        who: the class of the module.
        expected: how an error begins.

    Raises:
        ValueError: if a prefix is no text or covers no leaf, or if a leaf has two keys and only one is covered.
    """
    given = (replace,) if isinstance(replace, str) else replace
    if not isinstance(given, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{expected} to be a list of prefixes of keys, such as ['fc'], got {replace!r:.80}")
    found = Replaced(tuple(name.removesuffix(".") for name in given))
    for prefix in found.prefixes:
        if not any(map(Replaced((prefix,)).covers, rows)):
            raise ValueError(f"{expected} to name leaves of {who}, got {prefix!r:.80}{likely(prefix, rows)}")
    for key, row in rows.items():
        if key != row.key and found.covers(key) != found.covers(row.key):
            raise ValueError(
                f"{expected} to name both {row.key} and {key}, which are one leaf of {who}, got one of them"
            )
    return found


def likely(prefix: str, keys: Iterable[str]) -> str:
    """What ``prefix`` may stand for, as the end of a message: a prefix that ends like it, or a similar one, or any."""
    parts = [key.split(".") for key in keys]
    known = dict.fromkeys(".".join(names[:i]) for names in parts for i in range(1, len(names) + 1))
    inside = [name for name in known if name.endswith(f".{prefix}") or prefix.endswith(f".{name}")]
    if inside:
        return f"; did you mean {' or '.join(inside[:4])}?"
    first = dict.fromkeys(names[0] for names in parts)
    return close_names(prefix, known) or f"; the keys begin with {', '.join(list(first)[:20])}"


def new_leaves(rows: Iterable[Row], initial: Initial, rng: Any, precision: Precision) -> dict[Path, Lazy]:
    """The leaves of ``rows`` with their initial values. They are computed together, when the first is made.

    Raises:
        ValueError: if ``rng`` is neither an int nor a key of JAX.
    """
    rows = list(rows)
    if not rows:
        return {}
    key = key_of(rng)

    @functools.cache
    def start() -> Mapping[Path, Any]:
        return initial(key, [row.path for row in rows])

    def leaf(row: Row) -> Lazy:
        dtype = precision.stored(row.dtype, row.statistic)
        return Lazy(row.shape, dtype, lambda: np.array(start()[row.path], dtype=dtype))

    return {row.path: leaf(row) for row in rows}


def key_of(rng: Any) -> Any:
    """The key of JAX that ``rng`` is or is the seed of."""
    dtype = getattr(rng, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and rng.shape == ():
        return rng
    if dtype is not None and dtype == np.uint32 and rng.shape == (2,):
        return rng
    try:
        return jax.random.key(operator.index(rng))
    except (TypeError, OverflowError):
        raise ValueError(f"from_torch: expected rng to be an int or a key of jax.random, got {rng!r:.80}") from None


def initial_leaves(
    module: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any], key: Any, paths: Sequence[Path]
) -> dict[Path, Any]:
    """The leaves of ``module.init`` at ``paths``. Shapes in the place of inputs stand for zeros.

    Nothing else is computed: compiled, it takes a second where ``module.init`` takes ten.
    """
    args, call = [zeros(x) for x in inputs], {name: zeros(x) for name, x in kwargs.items()}

    @jax.jit
    def start(key: Any) -> dict[Path, Any]:
        found = traverse_util.flatten_dict(module.init(key, *args, **call))
        return {path: found[path] for path in paths}

    return start(key)


def zeros(value: Any) -> Any:
    """An array of zeros for a ``jax.ShapeDtypeStruct``; any other value as it is."""
    return np.zeros(value.shape, value.dtype) if isinstance(value, jax.ShapeDtypeStruct) else value


def no_initial(key: Any, paths: Sequence[Path]) -> Mapping[Path, Any]:
    """What a ``Plan`` that ``convert.plan`` did not make has in place of ``initial_leaves``."""
    raise ValueError("from_torch: expected a plan that convert.plan made for replace, got one without a module")
