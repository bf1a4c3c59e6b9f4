"""What reaches the terminal, and the exit status: nothing of a file steers the terminal, and 1 has one meaning."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from convert.__main__ import main
from convert.commands import inspecting
from convert.commands.terminal import CLOSED, FEW, INTERRUPTED, REFUSED, SafeConsole, Terminal, ended, printable, told
from convert.state_dict import MismatchError

KEYS = {
    "w[/x]": "w[/x]",
    "layer[a].w": "layer[a].w",
    "[bold]b": "[bold]b",
    ":smile:": ":smile:",
    "a\x1b[31mb": r"a\x1b[31mb",
    "line\nbreak": r"line\nbreak",
    "a\r\x07\x9b": r"a\r\x07\x9b",
    "right\u202eleft": r"right\u202eleft",
    "größe": "größe",
    "k" * 500: "k" * 500,
}


def odd_file(path):
    state = {key: np.zeros(2, np.float32) for key in KEYS}
    safetensors.numpy.save_file(state, path, {"who[/b]": "x\x1b[2J\ny"})
    return path


def test_keys_and_metadata_are_printed_as_they_are_or_escaped(capsys, tmp_path):
    (tmp_path / "x[").mkdir()
    assert main(["inspect", str(odd_file(tmp_path / "x[/b]"))]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert {line.split("  ")[0] for line in lines} >= {*KEYS.values()}
    assert r"who[/b]: x\x1b[2J\ny" in lines
    assert "x[/b]: safetensors, 10 arrays" in out
    assert all(line.isprintable() for line in lines)


def test_errors_are_escaped(capsys, tmp_path):
    for name in ("no[/b]", "no\x1b[31m", "no\nlines", "no\udc80", "no\u202e"):
        assert main(["inspect", str(tmp_path / name)]) == REFUSED
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.removesuffix("\n").isprintable()
        assert printable(name) in printed.err


def test_progress_texts_are_escaped(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Terminal(quiet=False).progress("reading [/b]\x1b[41m\u202e"):
        pass
    assert r"reading [/b]\x1b[41m\u202e" in screen.getvalue()
    assert "\x1b[41m" not in screen.getvalue()


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("a\ud800b", "utf-8", r"a\ud800b"),
        ("größe", "ascii", r"gr\xf6\xdfe"),
        ("\u2028\u200b\x85", "utf-8", r"\u2028\u200b\x85"),
        ("plain [b] \\n", "ascii", "plain [b] \\n"),
    ],
)
def test_printable(text, encoding, shown):
    assert printable(text, encoding) == shown


def command(*arguments, **options):
    environment = os.environ | options.pop("env", {})
    call = [sys.executable, "-m", "convert", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, env=environment, check=False, **options)


def test_an_ascii_terminal_gets_escapes(tmp_path):
    done = command("inspect", odd_file(tmp_path / "x"), env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"gr\xf6\xdfe" in done.stdout


def test_output_that_nobody_reads_ends_quietly(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    call = [sys.executable, "-m", "convert", "inspect", str(odd_file(tmp_path / "x"))]
    with subprocess.Popen(call, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        assert process.communicate()[1] == b""
    assert process.returncode == CLOSED


class Nowhere(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("failure", "status", "words"),
    [
        (ValueError("no [/b]"), REFUSED, "no [/b]"),
        (OSError(28, "No space left on device"), REFUSED, "No space left"),
        (MemoryError(), REFUSED, "not enough memory"),
        (RecursionError("deep"), REFUSED, "this is a bug"),
        (KeyError("x"), REFUSED, "Traceback"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
        (BrokenPipeError(), CLOSED, ""),
    ],
)
def test_no_failure_has_exit_status_1(capsys, monkeypatch, failure, status, words):
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    def fail(*_):
        raise failure

    assert ended(fail) == status
    assert words in (err := capsys.readouterr().err)
    assert bool(err) == bool(words)
    monkeypatch.setattr(inspecting, "scan", fail)
    assert main(["inspect", "x", "--quiet"]) == status


def test_a_closed_pipe_is_not_exit_status_1(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Nowhere())
    assert ended(lambda: SafeConsole().print("text") or 0) == CLOSED


def test_long_lists_of_differences_are_shortened():
    problems = [f"- key{i}: expected shape (3,), found nothing" for i in range(FEW + 5)]
    lines = told(MismatchError("the state dict does not fit", problems, "look")).splitlines()
    assert len([line for line in lines if line.startswith("- ")]) == FEW
    assert "hint: look" in lines
    assert lines[-1] == "... and 5 more: --all shows them"
    assert "key24" in told(MismatchError("no", problems), every=True)
    assert "--all" not in told(MismatchError("no", problems[:FEW]))


def test_all_lists_every_difference(capsys, tmp_path):
    safetensors.numpy.save_file({"w": np.zeros(2, np.float32)}, tmp_path / "x")
    call = ["convert", str(tmp_path / "x"), "--model", "DigitsNet", "--out", str(tmp_path / "out")]
    assert main(call) == REFUSED
    short = capsys.readouterr().err
    assert main([*call, "--all"]) == REFUSED
    whole = capsys.readouterr().err
    assert "--all shows them" in short
    assert "--all" not in whole
    assert len(short.splitlines()) < 25 < len(whole.splitlines())


def test_a_wrong_dialect_suggests_near_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", "x", "--dialect", "mmsegg", "--out", "y"])
    assert stop.value.code == REFUSED
    assert "no dialect is called 'mmsegg'; did you mean mmseg" in capsys.readouterr().err
