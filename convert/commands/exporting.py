"""The command ``export``: writes the PyTorch state dict of Flax variables."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from convert.checkpoint import FORMAT, Checkpoint, scan
from convert.commands.chosen import find_class
from convert.commands.converting import spelled_arguments
from convert.commands.options import add_arguments, add_inputs
from convert.commands.terminal import Terminal
from convert.dialects import DIALECTS, NATIVE, find_dialect
from convert.errors import RefusedError, name_file
from convert.exported import Export, export_of
from convert.files.torch_writer import save_torch
from convert.rules import COUNTER
from convert.variables_file import module_in
from convert.writing.formats import Format, find_format
from convert.writing.leaves import check_leaves
from convert.writing.safetensors_writer import DTYPES, write_safetensors
from convert.writing.targets import check_target
from flax_attn.catalog.spelling import build_module, build_own


def write_state(path: Path, state_dict: Mapping[str, Any], module: nn.Module | None = None) -> None:
    """Write a state dict as safetensors, with the metadata that libraries for PyTorch expect."""
    with name_file(path, "could not be written"):
        check_leaves(state_dict, DTYPES, "safetensors")
    write_safetensors(path, state_dict, {"format": "pt"})


def write_torch(path: Path, state_dict: Mapping[str, Any], module: nn.Module | None = None) -> None:
    """Write a state dict in the format of ``torch.save``."""
    save_torch(path, state_dict)


FORMATS = (
    *(Format("torch", suffix, write_torch) for suffix in (".pth", ".pt", ".bin")),
    Format("safetensors", ".safetensors", write_state),
)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``export``."""
    command.add_argument("file", type=Path, help="the safetensors file that `convert` or `save` wrote")
    command.add_argument("--out", type=Path, required=True, help="the file to write: .pth, .pt, .bin or .safetensors")
    command.add_argument("--format", choices=["torch", "safetensors"], help="the format (default: by the suffix)")
    command.add_argument(
        "--dialect",
        choices=[NATIVE, *(dialect.name for dialect in DIALECTS)],
        default=NATIVE,
        metavar="NAME",
        help=f"whose names the keys get: {NATIVE} (the default) stands for the names that this package uses; one of "
        "%(choices)s",
    )
    command.add_argument(
        "--model", help="the model, if the file names none; your own class as package.module:Class, with --input"
    )
    add_arguments(command)
    add_inputs(command, "with your own class")
    command.add_argument("--json", action="store_true", help="print one JSON object in place of the summary")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Write the PyTorch state dict of a file of Flax variables that ``convert`` wrote."""
    check_target(options.out, options.file)
    form = find_format(options.out, options.format or "", FORMATS)
    with terminal.progress(f"reading {options.file}"):
        checkpoint = own_checkpoint(options.file)
        module = module_for(options, checkpoint)
        export = export_of(module, checkpoint.arrays, options.input)
        dialect = None if options.dialect == NATIVE else find_dialect(options.dialect)
        state = export.state_dict(checkpoint.arrays, dialect)
    with terminal.steps(f"writing {options.out}", state) as watched:
        form.write(options.out, watched, None)
    facts = facts_of(options, module, export, arrays=len(state)) | {"out_format": form.name}
    if options.json:
        terminal.json(facts)
        return 0
    terminal.say(f"{facts['model']}: {len(state)} arrays, names: {options.dialect}")
    if export.counters:
        terminal.say(f"added {len(export.counters)} {COUNTER}, each 0, which PyTorch's batch normalizations have")
    terminal.say(f"wrote {options.out}, {facts['bytes']:,} bytes")
    return 0


def facts_of(options: argparse.Namespace, module: nn.Module, export: Export, arrays: int) -> dict[str, Any]:
    """What was read and written: plain values for JSON."""
    return {
        "file": str(options.file),
        "format": FORMAT,
        "model": type(module).__name__,
        "arguments": spelled_arguments(module),
        "dialect": options.dialect,
        "arrays": arrays,
        "counters": len(export.counters),
        "out": str(options.out),
        "bytes": options.out.stat().st_size,
    }


def own_checkpoint(path: Path) -> Checkpoint:
    """The Flax variables in a file that ``convert`` or ``save`` wrote. CheckpointError for any other file."""
    checkpoint = scan(path)
    with name_file(path, "could not be read"):
        if checkpoint.metadata.get("format") != FORMAT:
            raise RefusedError(
                f"expected Flax variables that convert or save wrote, got another {checkpoint.format} file; a PyTorch "
                "checkpoint becomes one with the command convert"
            )
    return checkpoint


def module_for(options: argparse.Namespace, checkpoint: Checkpoint) -> nn.Module:
    """The module that the file names, or, if it names none, that of ``--model`` and ``--arg``."""
    own = options.model is not None and ":" in options.model
    classes = [find_class(options.model, "--model")] if own else []
    if "module" in checkpoint.metadata:
        if options.arg or (options.model and not own):
            raise ValueError(f"{options.file}: names its module, {checkpoint.metadata['module']}: leave out --model")
        with name_file(options.file, "could not be read"):
            return module_in(checkpoint.metadata, classes)
    if options.model is None:
        raise ValueError(f"{options.file}: names no module; say which it is for with --model")
    if not own:
        return build_module(options.model, dict(options.arg))
    if not issubclass(classes[0], nn.Module):
        raise ValueError(f"--model: expected a class of flax.linen modules, got {options.model}")
    return build_own(classes[0], dict(options.arg))
