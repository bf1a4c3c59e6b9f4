"""The certificate of the command ``verify``: what it holds of the options, and the check against an older one."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from convert.commands.options import checkpoint_path, input_shape, key_value, seed
from convert.comparing.certificate import Certificate, read_certificate, write_certificate
from convert.comparing.provenance import Bytes, bytes_of, require_outside
from convert.comparing.report import Report
from convert.errors import CheckpointError, RefusedError, name_file
from convert.files.hub import is_remote
from convert.writing.targets import check_target

TEXT = (str, type(None))
ASKED: Mapping[str, tuple[type, ...]] = {
    "wrapper": TEXT,
    "prefix": TEXT,
    "strict_pickle": (bool,),
    "model": TEXT,
    "dialect": (str,),
    "seed": (int,),
    "torch": TEXT,
    "layouts": (list, type(None)),
}
"""The options of ``verify`` that a certificate holds as they are, and their types."""


def add_certificate(command: argparse.ArgumentParser) -> None:
    """Add the options that write and check a certificate."""
    group = command.add_mutually_exclusive_group()
    group.add_argument(
        "--certificate",
        type=Path,
        metavar="OUT.json",
        help="compare gradients and two training steps too, and if all results agree, write them to this file",
    )
    group.add_argument(
        "--check",
        type=Path,
        metavar="OUT.json",
        help="run the comparison of this certificate again; fail if the checkpoint is another one, or if a result is "
        "outside its tolerance, or if its relative difference is more than 10 times the recorded one and above 1e-12 "
        "in float64 or above rounding in float32",
    )


def require_target(options: argparse.Namespace) -> None:
    """Refuse a certificate that cannot be written, before anything is read."""
    check_target(options.certificate, options.file)
    with name_file(options.certificate, "could not be written"):
        require_outside(options.certificate, options.file)


def certificate_of(options: argparse.Namespace, path: Path, content: Bytes, found: tuple[Report, dict]) -> Certificate:
    """The certificate of a comparison.

    Args:
        path: the file of the certificate.
        content: the hash of the checkpoint before it was read.

    Raises:
        CheckpointError: if the checkpoint changed in the meantime.
    """
    report, facts = found
    if bytes_of(options.file) != content:
        raise CheckpointError(f"{options.file}: the file changed while it was verified; verify it again")
    asked = {name: getattr(options, name) for name in ASKED}
    shapes = [",".join(map(str, shape)) + f":{below}" * bool(below) for shape, below in options.input]
    return Certificate(
        file=seen_from(path, options.file),
        sha256=content.sha256,
        size=content.size,
        **facts,
        options={**asked, "arg": [f"{name}={value!r}" for name, value in options.arg], "input": shapes},
        results=tuple(report.rows),
        moves_with_input=finite(report.moves_with_input),
        moves_with_parameters=finite(report.moves_with_parameters),
        notes=list(report.notes),
    )


def finite(amount: float | None) -> float | None:
    """``amount``, or None where it is infinite, which JSON cannot hold."""
    return None if amount is None or not math.isfinite(amount) else float(amount)


def seen_from(certificate: Path, file: str | os.PathLike) -> str:
    """The path of the checkpoint ``file``, from the folder of the certificate where there is such a path."""
    if is_remote(file):
        return str(file)
    with suppress(ValueError):
        return Path(os.path.relpath(file, os.path.realpath(certificate.parent))).as_posix()
    return str(Path(file).absolute())


def repeated(options: argparse.Namespace) -> tuple[argparse.Namespace, Certificate]:
    """The options that the certificate of ``--check`` was written with, and the certificate.

    Raises:
        ValueError: if other options are given too, or if the checkpoint is not that of the certificate.
    """
    given = [name for name, value in vars(options).items() if name in (*ASKED, "arg", "input") and value not in UNSET]
    if given:
        option = given[0].replace("_", "-")
        raise ValueError(f"--check takes all options from the certificate: leave out --{option}")
    old = read_certificate(options.check)
    file = options.file if options.file is not None else place_of(options.check, old.file)
    if bytes_of(file).sha256 != old.sha256:
        raise ValueError(
            f"{file}: expected the checkpoint of the certificate {options.check}, got one with other bytes"
        )
    with name_file(options.check, "could not be read"):
        return argparse.Namespace(**asked_again(options, old.options), file=file), old


UNSET: Sequence[Any] = (None, False, [], "auto", 0)
"""The values of options that were not given."""


def asked_again(options: argparse.Namespace, asked: dict[str, Any]) -> dict[str, Any]:
    """The options in a certificate, as the command line gives them."""
    kept = {name: value for name, value in vars(options).items() if name != "file"}
    try:
        again = {name: asked[name] for name, kinds in ASKED.items() if type(asked[name]) in kinds}
        again |= {"seed": seed(str(again["seed"]))}
        again |= {"arg": [key_value(text) for text in asked["arg"]]}
        again |= {"input": [input_shape(text) for text in asked["input"]]}
    except (KeyError, TypeError, AttributeError, argparse.ArgumentTypeError):
        again = {}
    if not again.keys() >= ASKED.keys():
        raise RefusedError("expected the options of verify in the certificate, got others; make a new one")
    return {**kept, **again}


def place_of(certificate: Path, file: str) -> str | Path:
    """Where the checkpoint ``file`` of a certificate is: at its path from there, or beside the certificate."""
    if is_remote(file):
        return checkpoint_path(file)
    places = [certificate.parent / file, certificate.parent / Path(file).name]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise ValueError(f"{certificate}: expected the checkpoint at {places[0]}, found nothing; say where FILE is now")
    return found


def written(certificate: Certificate, path: Path) -> str:
    """Write the certificate, and say so."""
    write_certificate(path, certificate)
    return f"wrote {path}: {len(certificate.results)} results, sha256 {certificate.sha256[:16]}..."
