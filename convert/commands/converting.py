"""The command ``convert``: writes the Flax variables of a PyTorch checkpoint."""

import argparse
from pathlib import Path

from flax import traverse_util

from convert.checkpoint import scan
from convert.commands.chosen import chosen_model, recognised
from convert.commands.inspecting import assumptions, describe
from convert.commands.options import add_file, add_model
from convert.commands.terminal import Terminal
from convert.rules import dropped
from convert.variables_file import save
from flax_attn.catalog import Entry


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``convert``."""
    add_file(command)
    add_model(command, required=False)
    command.add_argument("--out", type=Path, required=True, help="the safetensors file to write")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Convert a PyTorch checkpoint, and write the Flax variables to a safetensors file."""
    entry: Entry
    with terminal.progress(f"converting {options.file}"):
        if options.model is None:
            checkpoint = scan(options.file, options.wrapper, options.prefix, options.strict_pickle)
            candidate = recognised(options, checkpoint)
            module, mapping, assumed = candidate.module, candidate.plan, assumptions(candidate.entry)
            terminal.say(f"recognised {candidate}")
        else:
            entry, module, mapping = chosen_model(options)
            checkpoint = scan(options.file, options.wrapper, options.prefix, options.strict_pickle)
            assumed = assumptions(entry)
        save(options.out, traverse_util.unflatten_dict(mapping.leaves(checkpoint.arrays, options.dialect)), module)
    for line in assumed + describe(options.file, checkpoint):
        terminal.say(line)
    left = [key for key in checkpoint.arrays if dropped(key)]
    count = sum(row.transposed for row in mapping.rows)
    terminal.say(f"{type(module).__name__}: mapped {len(mapping.rows)} arrays, {count} of them transposed")
    terminal.say(f"dropped {len(left)}: {', '.join(left) or 'nothing'}")
    terminal.say(f"wrote {options.out}, {Path(options.out).stat().st_size:,} bytes")
    return 0
