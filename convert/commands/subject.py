"""What ``verify`` compares: the module, and the numbers of the file, which the options or the file itself name."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from convert.checkpoint import FORMAT, Checkpoint, scan
from convert.commands.chosen import arguments_of, chosen_model, entry_of, own_modules, part, random_inputs, recognised
from convert.commands.converting import dialect_name, spelled_arguments
from convert.comparing.comparison import compare
from convert.comparing.report import Report
from convert.dialects import NATIVE
from convert.precision import KEEP
from convert.state_dict import Plan
from convert.tensors import as_numpy
from convert.variables_file import module_of, restore
from flax_attn.catalog import Entry
from flax_attn.layers import Module


@dataclasses.dataclass(frozen=True)
class Subject:
    """A module of this package, and the numbers of a file for it.

    Args:
        arguments: what ``module`` was built with; its twin is built with the same.
        state: the numbers, under PyTorch's names here.
        facts: what the module is called, and how the file was read: plain values for JSON.
    """

    entry: Entry
    module: Module
    plan: Plan
    arguments: Mapping[str, Any]
    state: dict[str, np.ndarray]
    facts: dict[str, Any]


def subject_of(options: argparse.Namespace) -> Subject:
    """The module that the options name or that the file is recognised as, with the numbers of the file."""
    checkpoint = scan(options.file, options.wrapper, options.prefix, options.strict_pickle)
    if checkpoint.metadata.get("format") == FORMAT:
        return converted(options, checkpoint)
    given: Mapping[str, Any]
    if options.model is None:
        candidate = recognised(options, checkpoint)
        checkpoint = part(checkpoint, candidate)
        entry, module, mapping, given = candidate.entry, candidate.module, candidate.plan, candidate.arguments
    else:
        entry, module, mapping, given = named(options)
    arrays = {key: as_numpy(array) for key, array in checkpoint.arrays.items()}
    state = mapping.to_torch(mapping.from_torch(arrays, options.dialect, dtype=KEEP))
    dialect = dialect_name(options.dialect, mapping, checkpoint.arrays)
    facts = facts_of(entry.cls.__name__, module, checkpoint, dialect)
    return Subject(entry, module, mapping, arguments=given, state=state, facts=facts)


def named(options: argparse.Namespace) -> tuple[Entry, Module, Plan, Mapping[str, Any]]:
    """Entry, module, plan and arguments of the model that the options name."""
    entry, module, mapping = chosen_model(options)
    return entry, module, mapping, {name: getattr(module, name, value) for name, value in options.arg}


def converted(options: argparse.Namespace, checkpoint: Checkpoint) -> Subject:
    """A file that ``convert`` or ``save`` wrote: its module is in its metadata, unless the options name one."""
    if options.model is not None:
        entry, module, mapping, given = named(options)
    elif "module" not in checkpoint.metadata:
        raise ValueError(f"{options.file}: its metadata name no module; say what it is with --model")
    else:
        module = cast(Module, module_of(options.file).copy(dtype=None, param_dtype=None))
        given = arguments_of(module)
        entry, mapping = entry_of(module)
        entry = dataclasses.replace(entry, cls=type(module))
    state = mapping.to_torch(restore(options.file))
    facts = facts_of(entry.cls.__name__, module, checkpoint, NATIVE)
    return Subject(entry, module, mapping, arguments=given, state=state, facts=facts)


def compare_own(options: argparse.Namespace) -> tuple[Report, dict[str, Any]]:
    """Run the classes of ``--model`` and ``--torch`` with the numbers of the file, and compare all results."""
    if not options.input:
        raise ValueError("verify needs --input with --torch: the shape of each input, such as --input 2,33,29,3")
    module, torch_module = own_modules(options.model, options.torch, dict(options.arg))
    checkpoint = scan(options.file, options.wrapper, options.prefix, options.strict_pickle)
    inputs = random_inputs(options.input, options.seed)
    numbers: dict[str, Any] = {"state_dict": {key: as_numpy(array) for key, array in checkpoint.arrays.items()}}
    if checkpoint.metadata.get("format") == FORMAT:
        numbers = {"variables": restore(options.file)}
    layouts = options.layouts or None
    try:
        report = compare(module, torch_module, *inputs, **numbers, seed=options.seed, layouts=layouts)
    except TypeError as error:
        raise ValueError(f"{options.model} cannot be called with these inputs: {error}") from error
    return report, facts_of(options.model, module, checkpoint, NATIVE)


def facts_of(model: str, module: nn.Module, checkpoint: Checkpoint, dialect: str) -> dict[str, Any]:
    """What was compared, and how the file was read: plain values for JSON."""
    floats = {str(x.dtype) for x in checkpoint.arrays.values() if jnp.issubdtype(x.dtype, jnp.inexact)}
    return {
        "model": model,
        "class_name": type(module).__name__,
        "arguments": spelled_arguments(module),
        "dialect": dialect,
        "wrapper": checkpoint.wrapper,
        "prefix": checkpoint.prefix,
        "dtype": ", ".join(sorted(floats)),
    }
