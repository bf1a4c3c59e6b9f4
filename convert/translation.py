"""State dicts of other projects into the names of yet other projects, without a module."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.dialects import AUTO, NATIVE, choose, find_dialect
from convert.renaming import Dialect
from convert.rules import dropped
from convert.state_dict import MismatchError
from convert.tensors import as_numpy


def translate(state_dict: Mapping[str, Any], source: str = AUTO, target: str = NATIVE) -> dict[str, np.ndarray]:
    """``state_dict`` with the names, and in the forms, of another project.

    The numbers are kept to the bit, except where ``Dialect.inexact`` of one of the two dialects names the array. No
    module is needed, so the shapes are not checked. Batch counters of BatchNorm are left out.

    Args:
        state_dict: numpy arrays or torch tensors by key, as ``load`` or ``torch.nn.Module.state_dict`` give them.
        source: the dialect of the keys, a name in ``convert.dialects``. "native": they are the names of this package.
            "auto": the dialect whose typical keys the state dict has, or else "native".
        target: the dialect of the result, or "native".

    Returns:
        New numpy arrays by key, in the dtypes of ``state_dict``.

    Raises:
        MismatchError: if the state dict does not fit ``source``; all differences are listed at once.
        ValueError: if there is no such dialect, if the keys may be those of several dialects, if a dialect has a name
            for none of the keys, or if ``target`` cannot express an array.
    """
    spoken, wanted = choose(source, state_dict), None if target == NATIVE else find_dialect(target)
    ours = _read(spoken, state_dict) if spoken else {k: v for k, v in state_dict.items() if not dropped(k)}
    theirs = _written(wanted, ours) if wanted else ours
    return {key: np.array(as_numpy(value), order="C") for key, value in theirs.items()}


def _read(dialect: Dialect, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    entries, problems = dialect.read(state_dict)
    if problems:
        lines = [f"the state dict does not fit {dialect.name}: {len(problems)} differences", *problems]
        raise MismatchError("\n".join(lines))
    _require_a_name(dialect, entries.keys() != {key for key in state_dict if not dropped(key)})
    return {key: entry.value for key, entry in entries.items()}


def _written(dialect: Dialect, ours: Mapping[str, Any]) -> dict[str, Any]:
    theirs = dialect.write(ours)
    _require_a_name(dialect, theirs.keys() != ours.keys())
    return theirs


def _require_a_name(dialect: Dialect, renamed: bool) -> None:
    if not renamed and dialect.signature:
        raise ValueError(
            f"translate: expected a state dict of {dialect.about} ({dialect.name}), "
            "but none of its keys has another name there; name the dialect of its network"
        )
