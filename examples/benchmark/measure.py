"""Measures one entry: ours, the plain form, and PyTorch in each of its forms."""

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import torch

from examples.benchmark import flax_side, torch_side
from examples.benchmark.case import Numbers, apart, draw
from examples.benchmark.ratios import MODES, TORCH_FORMS
from examples.benchmark.timing import peak_bytes, seconds_of, take_turns
from flax_attn.catalog import Entry

CLOSE = {"float32": 1e-3, "bfloat16": 0.25}
"""The largest difference of two outputs that are the same work. Both are rounded; float64 is compared in the tests."""

LEAST = 5
"""The number of rounds that even the slowest entry gets."""


@dataclass(frozen=True)
class Options:
    """How to measure.

    Args:
        modes: which of ``MODES``.
        seconds: for the rounds of an entry in one mode.
        rounds: the number of rounds in place of ``seconds``.
        compile: whether PyTorch is also compiled.
        compile_limit: the seconds that torch.compile may take for an entry in one mode.
    """

    modes: Sequence[str] = MODES
    seconds: float = 2.0
    rounds: int | None = None
    compile: bool = True
    compile_limit: int = 120


Result = dict[str, Any]


def measure(entry: Entry, dtype: str, options: Options) -> Result:
    """The figures of ``entry``: what differs between the two sides, and for each mode the times of each form.

    Raises:
        ValueError: if the outputs of both sides are not the same, so that the times are not of the same work.
    """
    numbers = draw(entry, dtype)
    result: Result = {"sizes": numbers.sizes}
    with jax.enable_x64(False):
        twin = torch_side.filled(numbers)
        forward = flax_side.lowered(numbers, "forward").compiled()
        result["difference"] = difference(numbers, forward, twin)
        for mode in options.modes:
            ours = forward if mode == "forward" else flax_side.lowered(numbers, mode).compiled()
            result[mode] = times(numbers, mode, ours, twin, options)
    return result


def release() -> None:
    """Forget what was compiled, which would fill the memory. Importing torch._dynamo for it would take seconds."""
    gc.collect()
    jax.clear_caches()
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.reset()


def difference(numbers: Numbers, program: flax_side.Compiled, twin: torch.nn.Module) -> float:
    """How far the outputs in eval mode are apart. ValueError if that is more than rounding."""
    runner = torch_side.in_form("eager", twin, numbers)
    assert runner is not None
    ours = [np.asarray(x, np.float64) for x in program()]
    found = apart(ours, torch_side.arrays(numbers, runner.forward()))
    if not found <= CLOSE[numbers.dtype]:
        raise ValueError(f"the outputs of Flax and PyTorch differ by {found:.1e} of their norm")
    return found


def times(numbers: Numbers, mode: str, program: flax_side.Compiled, twin: torch.nn.Module, options: Options) -> Result:
    """The figures of each form: times in seconds, and memory in bytes; for a missing form, the reason."""
    forms: Result = {"ours": {"first": program.first, "temporaries": program.temporaries}}
    thunks: dict[str, Callable[[], Any]] = {"ours": program}
    forms["plain"], plain = plain_form(numbers, mode, program.text)
    if plain is not None:
        thunks["plain"] = plain
    for form in TORCH_FORMS:
        forms[form], thunk = torch_form(form, numbers, mode, twin, options)
        if thunk is not None:
            thunks[form] = thunk
    for name, thunk in thunks.items():
        thunk()
        on_device = name not in ("ours", "plain") and torch_side.device().type == "cuda"
        forms[name]["peak"] = torch_side.peak_on_device(thunk) if on_device else peak_bytes(thunk)
    for name, figures in take_turns(thunks, options.seconds, least=LEAST, rounds=options.rounds).items():
        forms[name] |= figures
    return forms


def plain_form(numbers: Numbers, mode: str, text: str) -> tuple[Result, flax_side.Compiled | None]:
    """Our function in the forms that a user of flax.linen would write, if they make another program than ``text``."""
    context = flax_side.plain_forms()
    if context is None:
        return {"missing": "the layers have no other form"}, None
    lowered = flax_side.lowered(numbers, mode, context)
    if lowered.text == text:
        return {"missing": "the same program"}, None
    plain = lowered.compiled()
    return {"first": plain.first, "temporaries": plain.temporaries}, plain


def torch_form(
    form: str, numbers: Numbers, mode: str, twin: torch.nn.Module, options: Options
) -> tuple[Result, Callable[[], Any] | None]:
    """The seconds of the first call of PyTorch in one form, and a function that calls it again."""
    if form == "compile" and not options.compile:
        return {"missing": "not asked for"}, None
    runner = torch_side.in_form(form, twin, numbers)
    if runner is None:
        return {"missing": "no images"}, None
    thunk = getattr(runner, mode)
    if form != "compile":
        return {"first": seconds_of(thunk)}, thunk
    try:
        with torch_side.at_most(options.compile_limit):
            return {"first": seconds_of(thunk)}, thunk
    except Exception as error:
        return {"missing": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:200]}, None
