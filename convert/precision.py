"""The dtype in which numbers of a state dict are stored in Flax, and the note on parameters in half precision."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

KEEP = "keep"

FLOATS = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "bfloat16", "float16", "float64")}
"""The floating point dtypes that a leaf may have."""

HALF = (FLOATS["float16"], FLOATS["bfloat16"])

KINDS = {
    "floating point numbers": jnp.floating,
    "integers": jnp.integer,
    "complex numbers": jnp.complexfloating,
    "booleans": np.bool_,
}


class HalfPrecisionWarning(UserWarning):
    """The parameters of a state dict are in half precision, and so they train in half precision."""


def kind(dtype: np.dtype) -> str:
    """What numbers of ``dtype`` are called in a message."""
    return next((words for words, parent in KINDS.items() if jnp.issubdtype(dtype, parent)), dtype.name)


def is_floating(dtype: np.dtype) -> bool:
    """Whether ``dtype`` is a floating point dtype, those of ml_dtypes included."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


@dataclass(frozen=True)
class Precision:
    """What ``dtype`` asks for: a cast to ``target``, or everything as it is (``keep``), or neither."""

    target: np.dtype | None = None
    keep: bool = False

    @classmethod
    def of(cls, dtype: Any) -> "Precision":
        """The precision that an argument ``dtype`` names.

        Raises:
            ValueError: if it is not one of ``FLOATS``, "keep" or None.
        """
        if dtype is None or (isinstance(dtype, str) and dtype == KEEP):
            return cls(keep=dtype is not None)
        try:
            name = str(dtype).removeprefix("torch.")
            name = name if name in FLOATS else np.dtype(dtype).name
        except (TypeError, ValueError):
            name = ""
        if name not in FLOATS:
            raise ValueError(f"dtype: expected {', '.join(FLOATS)} or {KEEP}, got {dtype!r}")
        return cls(FLOATS[name])

    def stored(self, found: np.dtype, statistic: bool) -> np.dtype:
        """The dtype of a leaf whose numbers are of dtype ``found``."""
        if self.keep or not is_floating(found):
            return found
        asked = found if self.target is None else self.target
        return FLOATS["float32"] if statistic and asked in HALF else asked

    def problem(self, found: np.dtype, leaf: np.dtype) -> str:
        """Why numbers of dtype ``found`` cannot go into a leaf that the module has as ``leaf``; empty if they can."""
        if kind(found) != kind(leaf):
            return f"expected {kind(leaf)}, found {found.name}"
        if is_floating(found) and self.target is None and found not in FLOATS.values():
            known = ", ".join(FLOATS)
            return f"expected one of {known}, found {found.name}; pass a dtype, such as dtype='float32', to cast it"
        return ""


def half_precision(pairs: Iterable[tuple[np.dtype, np.dtype]], option: str) -> str:
    """The note on parameters in half precision; empty if there are none, or if the module itself has that dtype.

    Args:
        pairs: the dtype of the numbers and the dtype in the module, for each parameter.
        option: how a dtype is asked for, with {} in its place: "dtype='{}'".
    """
    pairs = list(pairs)
    half = [found.name for found, leaf in pairs if found in HALF and found != leaf]
    if not half:
        return ""
    names = " or ".join(sorted(set(half)))
    return (
        f"{len(half)} of {len(pairs)} parameters are {names} and will train in {names}, where Adam can give NaN; "
        f"{option.format('float32')} casts them, {option.format(KEEP)} keeps them without this note"
    )
