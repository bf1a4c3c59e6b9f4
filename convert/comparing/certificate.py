"""The record of a comparison in a JSON file: what was compared, with what, and how far all results were apart."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from convert.comparing.comparison import DTYPES
from convert.comparing.provenance import machine, versions
from convert.comparing.report import KINDS, Row
from convert.comparing.tolerances import TOLERANCE
from convert.errors import RefusedError, damage, name_file, shown
from convert.files.source import Source
from convert.writing.targets import replaced

FORMAT, VERSION = "flax_attn certificate", 1

WORSE = 10
"""A relative difference is clearly worse when it is more than so many times the recorded one, and not mere rounding."""

ROUNDING = {"float64": 1 / 100, "float32": 1 / 10}
"""The share of the allowed difference, by dtype, up to which a difference is mere rounding: 1e-12 in float64, and in
float32 1e-5, or PyTorch's own rounding error where that is more."""

LARGEST = 100_000_000
"""A file with more bytes is no certificate."""

TEXT, MAYBE, MAYBE_NUMBER = (str,), (str, type(None)), (float, type(None))
FIELDS: Mapping[str, tuple[type, ...]] = {
    "file": TEXT,
    "sha256": TEXT,
    "size": (int,),
    "model": TEXT,
    "class_name": TEXT,
    "arguments": (dict, type(None)),
    "dialect": TEXT,
    "wrapper": MAYBE,
    "prefix": TEXT,
    "dtype": TEXT,
    "options": (dict,),
    "versions": (dict,),
    "machine": (dict,),
    "tolerances": (dict,),
    "moves_with_input": MAYBE_NUMBER,
    "moves_with_parameters": MAYBE_NUMBER,
    "notes": (list,),
}
"""The types of the fields of a certificate, but for the results."""

NUMBERS = ("absolute", "relative", "allowed", "magnitude")
RESULT = dict.fromkeys(("dtype", "name", "kind"), str) | dict.fromkeys(NUMBERS, float)
"""The types of the fields of a result."""

SUBJECT = ("model", "class_name", "arguments", "dialect", "wrapper", "prefix", "dtype")
"""The fields that say what was compared."""


@dataclass(frozen=True)
class Certificate:
    """What ``verify`` found for one checkpoint file.

    Args:
        file: where the checkpoint was, seen from the folder of the certificate.
        sha256, size: of the bytes of the checkpoint.
        model: the class or constructor, as ``--model`` takes it.
        class_name, arguments: the class of the module, and its arguments that are not the default; None where they
            have no form in JSON.
        dialect, wrapper, prefix, dtype: how the file was read, and the dtypes of its floating point numbers.
        options: what ``verify`` was asked for; the same is asked again.
        results: a row for each pair of arrays.
    """

    file: str
    sha256: str
    size: int
    model: str
    class_name: str
    arguments: dict[str, Any] | None
    dialect: str
    wrapper: str | None
    prefix: str
    dtype: str
    options: dict[str, Any]
    results: tuple[Row, ...]
    moves_with_input: float | None = None
    moves_with_parameters: float | None = None
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    machine: dict[str, str] = field(default_factory=machine)
    tolerances: dict[str, float] = field(default_factory=lambda: {dtype: TOLERANCE[dtype] for dtype in DTYPES})

    def to_json(self) -> str:
        """The text of the file: sorted keys, no time, and a digest of all else, so that the same run gives the same."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            **{name: getattr(self, name) for name in FIELDS},
            "results": [asdict(row) for row in self.results],
            "largest": largest(self.results),
        }
        return json.dumps({**content, "digest": digest(content)}, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Certificate":
        """The inverse of ``to_json``.

        Raises:
            RefusedError: if the text is damaged, of another version, changed by hand, or no certificate.
        """
        with damage(ValueError, RecursionError):
            content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RefusedError("expected a certificate that verify --certificate wrote, got other JSON")
        if content.get("version") != VERSION:
            found = shown(str(content.get("version")))
            raise RefusedError(f"expected a certificate of version {VERSION}, got version {found}; make a new one")
        with damage(ValueError, RecursionError):
            expected = digest({key: value for key, value in content.items() if key != "digest"})
        if content.get("digest") != expected:
            raise RefusedError("expected a certificate as verify wrote it, got one that was changed; make a new one")
        if not is_complete(content):
            raise RefusedError("expected a certificate with all its fields, got one with others; make a new one")
        rows = [Row(**row) for row in content["results"]]
        return cls(results=tuple(rows), **{name: content[name] for name in FIELDS})

    def worse_than(self, recorded: "Certificate") -> list[str]:
        """A sentence for each thing in which this certificate is worse than ``recorded``; none where it is not.

        A result is worse if its difference is outside the tolerance of either certificate, or if its relative
        difference is more than 10 times the recorded one and above 1e-12 in float64 or above the level of rounding in
        float32.
        """
        said = [
            f"{name}: expected {brief(getattr(recorded, name))} as in the certificate, got {brief(getattr(self, name))}"
            for name in SUBJECT
            if getattr(self, name) != getattr(recorded, name)
        ]
        ours, theirs = ({(row.dtype, row.name): row for row in side.results} for side in (self, recorded))
        lost = [shown(" ".join(key)) for key in theirs if key not in ours]
        said += [f"{name}: in the certificate, but not computed now" for name in lost]
        said += [f"{' '.join(key)}: computed now, but not in the certificate" for key in ours if key not in theirs]
        return said + [text for key, row in ours.items() if (text := worse(row, theirs.get(key)))]

    def differences(self, other: "Certificate") -> list[str]:
        """A sentence for each version or machine that is not that of ``other``, which may explain other numbers."""
        ours, theirs = ({**side.versions, **side.machine} for side in (self, other))
        return [
            f"{shown(name)}: {brief(ours.get(name))} now, {brief(theirs.get(name))} in the certificate"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]


def worse(row: Row, recorded: Row | None) -> str:
    """In what ``row`` is worse than the row that was ``recorded``; empty where it is not."""
    who = f"{row.dtype} {row.name}: the relative difference is {row.relative:.2e}"
    allowed = min(row.allowed, recorded.allowed) if recorded else row.allowed
    if not row.relative <= allowed:
        return f"{who}, allowed is {allowed:.0e}"
    if recorded is None or row.relative <= max(WORSE * recorded.relative, ROUNDING[row.dtype] * allowed):
        return ""
    return f"{who}, more than {WORSE} times the {recorded.relative:.2e} of the certificate"


def largest(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """By dtype and kind of result: how many there are, and the largest absolute and relative difference."""
    groups = {
        (dtype, kind): [r for r in rows if (r.dtype, r.kind) == (dtype, kind)] for dtype in DTYPES for kind in KINDS
    }
    return [
        {
            "dtype": dtype,
            "kind": kind,
            "count": len(group),
            "absolute": max(row.absolute for row in group),
            "relative": max(row.relative for row in group),
            "allowed": max(row.allowed for row in group),
        }
        for (dtype, kind), group in groups.items()
        if group
    ]


def digest(content: Mapping[str, Any]) -> str:
    """A hash of all values, which tells whether a text was changed by hand."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_complete(content: Mapping[str, Any]) -> bool:
    """Whether ``content`` has every field of a certificate, each of its type."""
    results = content.get("results")
    return (
        all(name in content and type(content[name]) in kinds for name, kinds in FIELDS.items())
        and isinstance(results, list)
        and all(type(row) is dict and {key: type(value) for key, value in row.items()} == RESULT for row in results)
        and all(row["dtype"] in DTYPES and row["kind"] in KINDS for row in results)
    )


def brief(value: Any) -> str:
    """``value`` of a certificate, made fit for a message."""
    return shown(value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def write_certificate(path: str | os.PathLike, certificate: Certificate) -> None:
    """Write ``certificate`` to ``path``. An older file there is replaced as a whole.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    with replaced(path) as file:
        file.write(certificate.to_json().encode())


def read_certificate(path: str | os.PathLike) -> Certificate:
    """The certificate in the file at ``path``.

    Raises:
        CheckpointError: if there is no such file, or if it holds no certificate as ``verify`` wrote it.
    """
    with name_file(path, "could not be read"):
        source = Source(path)
        if source.size > LARGEST:
            raise RefusedError(f"expected a certificate of at most {LARGEST} bytes, got {source.size}")
        return Certificate.from_json(source.read(0, source.size).tobytes())
