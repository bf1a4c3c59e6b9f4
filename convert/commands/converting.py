"""The command ``convert``: writes the Flax variables of a PyTorch checkpoint."""

import argparse
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import flax.linen as nn
from flax import traverse_util

from convert.checkpoint import FORMAT, Checkpoint, scan
from convert.commands.chosen import chosen_model, part, recognised
from convert.commands.inspecting import assumptions, describe
from convert.commands.optimizing import add_optimizer, check_options
from convert.commands.options import add_file, add_model, seed
from convert.commands.terminal import Terminal, printable
from convert.dialects import NATIVE
from convert.matching import NOTHING, spoken
from convert.precision import KEEP
from convert.replacing import Replaced, replaced_of
from convert.rules import dropped
from convert.state_dict import Plan
from convert.writing.formats import FORMATS, Format, find_format
from convert.writing.targets import check_target
from flax_attn.catalog import Entry
from flax_attn.catalog.spelling import module_to_json
from flax_attn.layers import Module

TRAINING = "convert.commands.training"
"""The file that writes the state of an optimizer. It needs optax, which takes a while to import."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``convert``."""
    add_file(command)
    add_model(command, required=False)
    command.add_argument(
        "--out", type=Path, required=True, help="the file to write: .safetensors, .msgpack or .npz; or a new folder"
    )
    command.add_argument(
        "--format",
        choices=[form.name for form in FORMATS],
        help="the format to write (default: by the suffix of --out; safetensors without one); orbax is a folder",
    )
    command.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", KEEP],
        help=f"the dtype of floating-point numbers; {KEEP}: that of the file, in every array (default: that of the "
        "file, but float32 for statistics in half precision)",
    )
    command.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="PREFIX",
        help="take nothing below this prefix of keys from the file, such as fc with another --arg num_classes=7, but "
        "the initial values of the model; the file may have other shapes there, or nothing; may be given several times",
    )
    command.add_argument("--seed", type=seed, default=0, help="the seed of the initial values (default: 0)")
    add_optimizer(command)
    command.add_argument("--json", action="store_true", help="print one JSON object in place of the summary")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Convert a PyTorch checkpoint, and write the Flax variables to a file or an Orbax folder."""
    check_target(options.out, options.file, folder=options.format == "orbax")
    form = chosen_format(options)
    check_options(options, form)
    with terminal.progress(f"reading {options.file}"):
        said, entry, module, mapping, checkpoint = source(options)
        replaced = replaced_of(options.replace, mapping.keyed, mapping.module, "expected --replace")
        new = {"replace": replaced.prefixes, "rng": options.seed}
        leaves = mapping.leaves(checkpoint.arrays, options.dialect, options.dtype, **new)
    training: dict[str, Any] = {}
    if options.with_optimizer:
        with terminal.progress(f"writing {options.out}"):
            write = import_module(TRAINING).write_training
            training = write(options, entry, module=module, mapping=mapping, checkpoint=checkpoint)
    else:
        with terminal.steps(f"writing {options.out}", leaves) as watched:
            form.write(options.out, traverse_util.unflatten_dict(watched), module)
    facts = facts_of(options, checkpoint, module, mapping=mapping, replaced=replaced) | {
        "training": training,
        "assumed": assumptions(entry),
        "note": "" if options.dtype else mapping.half_precision(leaves, "--dtype {}"),
        "out_format": form.name,
        "bytes": written(options.out),
    }
    if options.json:
        terminal.json(facts)
        return 0
    for line in said + assumptions(entry) + describe(options.file, checkpoint) + summary(facts):
        terminal.say(line)
    return 0


def source(options: argparse.Namespace) -> tuple[list[str], Entry, Module, Plan, Checkpoint]:
    """What to say first, the entry, module and plan of the model that was chosen or recognised, and the checkpoint."""
    if options.model is not None:
        entry, module, mapping = chosen_model(options)
        return [], entry, module, mapping, foreign_checkpoint(options)
    checkpoint = foreign_checkpoint(options)
    candidate = recognised(options, checkpoint)
    below = f" below the prefix {printable(candidate.prefix)!r}" if candidate.prefix else ""
    said = [f"recognised {candidate}{below}"]
    return said, candidate.entry, candidate.module, candidate.plan, part(checkpoint, candidate)


def chosen_format(options: argparse.Namespace) -> Format:
    """The format of ``--format``, or of the suffix of ``--out``, or safetensors if it has none."""
    return find_format(options.out, options.format or ("" if options.out.suffix else "safetensors"), FORMATS)


def foreign_checkpoint(options: argparse.Namespace) -> Checkpoint:
    """The PyTorch checkpoint in the file of the options. ValueError if it holds Flax variables already."""
    checkpoint = scan(options.file, options.wrapper, options.prefix, options.strict_pickle)
    if checkpoint.metadata.get("format") == FORMAT:
        raise ValueError(
            f"{options.file}: expected a PyTorch checkpoint, got Flax variables that convert or save wrote; the "
            "command export makes a PyTorch state dict of them"
        )
    return checkpoint


def facts_of(
    options: argparse.Namespace, checkpoint: Checkpoint, module: nn.Module, mapping: Plan, replaced: Replaced
) -> dict[str, Any]:
    """What was read, as which model, and how much of it was used: plain values for JSON."""
    new = [row.key for row in mapping.rows if replaced.covers(row.key)]
    kept = [row for row in mapping.rows if not replaced.covers(row.key)]
    return {
        "file": str(options.file),
        "format": checkpoint.format,
        "wrapper": checkpoint.wrapper,
        "prefix": checkpoint.prefix,
        "model": type(module).__name__,
        "arguments": spelled_arguments(module),
        "dialect": dialect_name(options.dialect, mapping, checkpoint.arrays, replaced),
        "dtype": options.dtype,
        "arrays": len(kept),
        "transposed": sum(row.transposed for row in kept),
        "replaced": new,
        "dropped": [key for key in checkpoint.arrays if dropped(key)],
        "out": str(options.out),
    }


def spelled_arguments(module: nn.Module) -> dict[str, Any] | None:
    """The arguments of a module as plain values; None if one of them cannot be spelled so."""
    with suppress(ValueError):
        return module_to_json(module)["arguments"]
    return None


def dialect_name(dialect: str, mapping: Plan, keys: Iterable[str], replaced: Replaced = NOTHING) -> str:
    """The name of the dialect in which the keys are read."""
    chosen = spoken(mapping.shapes, list(keys), dialect, replaced)
    return chosen.name if chosen else NATIVE


def written(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def summary(facts: Mapping[str, Any]) -> list[str]:
    """What was done, as lines of text."""
    left, new = facts["dropped"], facts["replaced"]
    lines = [
        f"{facts['model']}: mapped {facts['arrays']} arrays, {facts['transposed']} of them transposed",
        f"dropped {len(left)}: {', '.join(left) or 'nothing'}",
        f"wrote {facts['out']}, {facts['bytes']:,} bytes, {facts['out_format']}",
    ]
    lines[1:1] = [f"replaced {len(new)} by initial values: {', '.join(new)}"] * bool(new)
    lines += import_module(TRAINING).said_of(facts["training"]) if facts["training"] else []
    return lines + [f"note: {facts['note']}"] * bool(facts["note"])
