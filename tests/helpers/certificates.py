"""What the tests of certificates share: the files, and the command that writes and checks certificates."""

import json

import numpy as np

from convert import save_torch
from convert.__main__ import main
from convert.comparing.report import Row

BLOCK = ["--model", "BasicConv2d", "--arg", "in_channels=3", "--arg", "out_channels=4", "--arg", "kernel_size=3"]
GIVEN = {"in_channels": 3, "out_channels": 4, "kernel_size": 3}


def verify(capsys, *arguments):
    status = main(["verify", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def saved(path, state):
    save_torch(path, {key: np.asarray(value) for key, value in state.items()})
    return path


def content(path):
    return json.loads(path.read_text())


def row_of(relative, dtype="float64", allowed=1e-10, name="eval: output 0"):
    return Row(dtype, name, "outputs", absolute=relative, relative=relative, allowed=allowed)
