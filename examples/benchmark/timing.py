"""Time and memory of functions that are called in turn."""

import ctypes
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SHORT = 0.02
"""A function that takes less than these seconds is called several times in a round, after a call that does not count:
the threads of the function before it wait for work a while longer."""

KEEP_MEMORY = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}
"""The numbers and values of the options of glibc that ``keep_freed_memory`` sets."""

Thunk = Callable[[], Any]


def keep_freed_memory() -> None:
    """Keep freed memory in the process, where it has glibc.

    Otherwise large arrays get new pages, which take time, in some calls and not in others, by chance. Call it before
    anything starts threads.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in KEEP_MEMORY.values():
            mallopt(option, value)


def take_turns(
    thunks: Mapping[str, Thunk], seconds: float, least: int, rounds: int | None = None
) -> dict[str, dict[str, float]]:
    """Seconds of a call of each function: quartiles, the smallest, and the number of rounds.

    Every round calls every function, in turn, so that all of them meet the same state of the machine. Each must have
    been called before.

    Args:
        seconds: how long all rounds take together; no round begins later.
        least: the number of rounds that begin even so.
        rounds: the number of rounds in place of these two.
    """
    calls = {name: calls_in_round(thunk) for name, thunk in thunks.items()}
    samples: dict[str, list[float]] = {name: [] for name in thunks}
    begin, done = time.perf_counter(), 0
    while done < (least if rounds is None else rounds) or (rounds is None and time.perf_counter() - begin < seconds):
        for name, thunk in thunks.items():
            if calls[name] > 1:
                thunk()
            samples[name].append(seconds_of(thunk, calls[name]))
        done += 1
    return {name: spread(values) for name, values in samples.items()}


def seconds_of(thunk: Thunk, calls: int = 1) -> float:
    """Seconds of one call, the mean of ``calls`` of them."""
    begin = time.perf_counter()
    for _ in range(calls):
        thunk()
    return (time.perf_counter() - begin) / calls


def calls_in_round(thunk: Thunk) -> int:
    """How many calls of a short function take ``SHORT`` seconds; 1 for a long one."""
    return int(np.clip(SHORT / max(seconds_of(thunk), 1e-6), 1, 1000))


def spread(values: list[float]) -> dict[str, float]:
    """Quartiles and smallest of the samples."""
    lower, median, upper = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return {"median": median, "lower": lower, "upper": upper, "least": min(values), "rounds": len(values)}


def peak_bytes(thunk: Thunk) -> int | None:
    """How far the memory of this process grows while ``thunk`` runs; None where the system does not tell.

    The pause lets the threads of the call before free what they hold.
    """
    try:
        time.sleep(0.02)
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        thunk()
        return max(0, resident("VmHWM") - before)
    except (OSError, AttributeError):
        return None


def resident(what: str) -> int:
    """The bytes of this process that are in memory ("VmRSS"), or were at most ("VmHWM")."""
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) * 1024
