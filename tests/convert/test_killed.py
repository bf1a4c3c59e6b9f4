"""A process that is killed while it writes leaves the old file or the new one, and the next write removes the rest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = """
import json, os, random, signal, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
from convert import restore, load, save, save_torch
from convert.writing.formats import write_npz

folder, count = sys.argv[1], int(sys.argv[2])
path = os.path.join(folder, "net.safetensors")
"""

KILL = """
def state(number):
    return {"params": {str(i): np.full(40_000, number, np.int64) for i in range(20)}}

WRITERS = {
    "save": (save, lambda: restore(path)["params"]),
    "save_torch": (lambda path, tree: save_torch(path, tree["params"]), lambda: load(path)),
    "npz": (write_npz, lambda: {key: array for key, array in np.load(path).items()}),
}

def is_whole():
    numbers = {int(number) for array in read().values() for number in np.unique(array)}
    return len(numbers) == 1 and len(read()) == 20

random.seed(0)
found = []
for number in range(count):
    write, read = WRITERS[list(WRITERS)[number % len(WRITERS)]]
    write(path, state(0))
    start = time.perf_counter()
    write(path, state(0))
    took = time.perf_counter() - start
    process = os.fork()
    if process == 0:
        for i in range(1, 1000):
            write(path, state(i))
    time.sleep(random.random() * 3 * took)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    left = len(os.listdir(folder)) - 1
    whole = is_whole()
    write(path, state(0))
    found.append({"whole": whole, "left": left, "left later": len(os.listdir(folder)) - 1})
print(json.dumps(found))
"""

END = """
from convert import __main__ as program, demo
from convert.writing.targets import new_folder, replaced

def picture(result, path):
    with (new_folder if number % 2 else replaced)(path) as file:
        if number % 2:
            os.mkdir(file)
        else:
            file.write(b"half")
            file.flush()
        os.write(ready[1], b"x")
        time.sleep(60)

demo.picture, demo.run = picture, lambda: None
program.parser("demo")  # imports all that the processes need: a fork may find a lock taken for ever
found = []
for number, sign in enumerate(2 * [signal.SIGTERM] + 2 * [signal.SIGINT] + 2 * [signal.SIGHUP]):
    ready = os.pipe()
    process = os.fork()
    if process == 0:
        sys.argv = ["flax-attn-convert", "demo", "--quiet", "--out", os.path.join(folder, "a.png")]
        try:
            status = program.main()
        except SystemExit as stop:
            status = stop.code
        os._exit(status)
    os.read(ready[0], 1)
    left = len(os.listdir(folder))
    os.kill(process, sign)
    _, status = os.waitpid(process, 0)
    found.append([os.waitstatus_to_exitcode(status), left, len(os.listdir(folder))])
print(json.dumps(found))
"""


def run(script, folder, count=0):
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, str(folder), str(count)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("count", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_at_any_moment(tmp_path, count):
    found = run(KILL, tmp_path, count)
    assert len(found) == count
    assert all(kill["whole"] for kill in found)
    assert sum(kill["left"] for kill in found) > 0
    assert max(kill["left"] for kill in found) <= 1
    assert all(kill["left later"] == 0 for kill in found)


def test_a_signal_removes_what_is_half_written(tmp_path):
    found = run(END, tmp_path)
    assert found == [[status, 1, 0] for status in (143, 143, 130, 130, 129, 129)]


def test_signals_are_left_alone_where_this_is_not_the_main_program(monkeypatch):
    import signal

    from convert.__main__ import ended_by_signals, main

    before = signal.getsignal(signal.SIGTERM)
    seen = []
    monkeypatch.setattr(
        "convert.commands.listing.listing", lambda _: seen.append(signal.getsignal(signal.SIGTERM)) or []
    )
    assert main(["models"]) == 0
    assert seen == [before]
    with ended_by_signals(True):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ended_by_signals(True):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, handler)
