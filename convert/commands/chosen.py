"""The modules that the options of a command name: a model of the catalog, or classes of a user."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from convert.checkpoint import Checkpoint
from convert.recognition import Candidate, entry_plan, recognise, recognise_blocks
from convert.state_dict import Plan
from flax_attn.catalog import CATALOG, PUBLISHED, Entry, Make, arguments, find_entries
from flax_attn.catalog.spelling import build_module, build_own
from flax_attn.layers import Module


def chosen_model(options: argparse.Namespace) -> tuple[Entry, Module, Plan]:
    """The module of ``--model`` and ``--arg``, an entry whose example inputs fit it, and its conversion plan."""
    module = build_module(options.model, dict(options.arg))
    refusals = []
    for entry in find_entries(options.model):
        try:
            return entry, module, entry_plan(entry, module)
        except ValueError as refusal:
            refusals.append(refusal)
    raise ValueError(str(refusals[0]).partition("\n")[0])


def recognised(options: argparse.Namespace, checkpoint: Checkpoint) -> Candidate:
    """The one published network that the file fits. ValueError if the file fits none, or several."""
    if options.arg:
        raise ValueError("an argument needs a model: name the model with --model")
    found = recognise(checkpoint.arrays, options.dialect)
    if not found:
        blocks = [candidate.options for candidate in recognise_blocks(checkpoint.arrays, options.dialect)]
        may_be = "\n".join(["; it may be", *blocks]) if blocks else ""
        raise ValueError(f"{options.file}: fits no published network; say what it is with --model{may_be}")
    if len(found) > 1:
        several = "\n".join(candidate.options for candidate in found)
        raise ValueError(f"{options.file}: fits several networks; say which with\n{several}")
    return found[0]


def part(checkpoint: Checkpoint, candidate: Candidate) -> Checkpoint:
    """The part of ``checkpoint`` that fits ``candidate``: the keys below its prefix, without it."""
    prefix = checkpoint.prefix + candidate.prefix
    return dataclasses.replace(checkpoint, arrays=candidate.select(checkpoint.arrays), prefix=prefix)


def entry_of(module: Module) -> tuple[Entry, Plan]:
    """An entry of the catalog whose example inputs fit ``module``, and the plan of ``module`` for these inputs."""
    who = type(module).__name__
    for entry in [entry for entry in CATALOG + PUBLISHED if entry.makes is type(module)]:
        try:
            return entry, entry_plan(entry, module)
        except (ValueError, TypeError):
            continue
    raise ValueError(f"the catalog has no example inputs that fit this {who}; see verify --torch, or convert.compare")


def arguments_of(module: Module) -> dict[str, Any]:
    """The arguments that ``module`` was built with, where they are not the default; a module in them as a ``Make``."""
    known = arguments(type(module)).items()
    given = {name: (getattr(module, name), p.default) for name, p in known}
    different = {name: value for name, (value, default) in given.items() if value is not default}
    return {
        name: Make(type(value), **arguments_of(value)) if isinstance(value, Module) else value
        for name, value in different.items()
    }


def find_class(spelled: str, option: str) -> Any:
    """The class that an option names as "package.module:Class", importable from the current directory.

    Raises:
        ValueError: if there is no such module or no such class, or if its import fails.
    """
    path, colon, name = spelled.partition(":")
    if not (path and colon and name):
        raise ValueError(f"{option}: expected package.module:Class, got {spelled!r}")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = import_module(path)
    except ModuleNotFoundError as error:
        if error.name and f"{path}.".startswith(f"{error.name}."):
            raise ValueError(f"{option}: there is no module {error.name} in {folder} or on the Python path") from error
        raise ValueError(f"{option}: the import of {path} failed: {error}") from error
    except Exception as error:
        raise ValueError(f"{option}: the import of {path} failed: {type(error).__name__} {error}") from error
    if not isinstance(vars(module).get(name), type):
        raise ValueError(f"{option}: the module {path} has no class {name}")
    return vars(module)[name]


def own_modules(model: str, torch: str, given: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    """The Flax module and the torch module of the two classes, built from the same arguments."""
    flax_class, torch_class = find_class(model, "--model"), find_class(torch, "--torch")
    if not issubclass(flax_class, nn.Module):
        raise ValueError(f"--model: expected a class of flax.linen modules, got {model}")
    if not import_module("torch_ref.foreign").is_module(torch_class):
        raise ValueError(f"--torch: expected a class of torch.nn modules, got {torch}")
    return build_own(flax_class, given), build_own(torch_class, given)


def random_inputs(shapes: list[tuple[tuple[int, ...], int]], seed: int) -> list[np.ndarray]:
    """An array for each ``--input``: normally distributed numbers, or integers below the given one."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, below, shape) if below else np.asarray(rng.normal(size=shape)) for shape, below in shapes]
