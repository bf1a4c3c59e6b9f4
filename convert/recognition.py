"""Which published networks a state dict may be of, by the names and shapes of its keys.

``digests.json`` tells the names of every published network apart without building it; ``python -m convert.recognition``
writes it anew.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from convert.dialects import AUTO, choose, detect
from convert.renaming import Dialect
from convert.rules import dropped
from convert.state_dict import Plan, plan, untranslated
from flax_attn.catalog import PUBLISHED, Entry, Published, arguments
from flax_attn.layers import Module

DIGESTS = Path(__file__).with_name("digests.json")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A published network that a state dict fits.

    Args:
        arguments: what its constructor is given beside the defaults.
        dialect: in which the state dict fits; None for our names.
    """

    entry: Published
    arguments: dict[str, Any]
    module: Module
    plan: Plan
    dialect: Dialect | None

    @property
    def options(self) -> str:
        """What says the same on the command line."""
        given = [f"--arg {key}={value!r}" for key, value in self.arguments.items()]
        spoken = [f"--dialect {self.dialect.name}"] if self.dialect else []
        return " ".join([f"--model {self.entry.cls.__name__}", *given, *spoken])

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"{self.entry.cls.__name__}({inside})"


def digest(keys: Iterable[str]) -> str:
    """A short name for a set of keys; those that no network holds do not count."""
    names = "\n".join(sorted(key for key in keys if not dropped(key)))
    return hashlib.sha256(names.encode()).hexdigest()[:16]


@functools.cache
def digests() -> dict[str, str]:
    """The digest of every published network."""
    return json.loads(DIGESTS.read_text())


def recognise(state_dict: Mapping[str, Any], dialect: str = AUTO) -> list[Candidate]:
    """Every published network that ``state_dict`` fits, in ``dialect`` or, for "auto", under our names if its own are
    not those of a dialect, else in every dialect that they may be of."""
    spoken: list[Dialect | None] = [*detect(state_dict)] if dialect == AUTO else [choose(dialect, state_dict)]
    return [candidate for one in spoken or [None] for candidate in _fitting(one, state_dict)]


def _fitting(dialect: Dialect | None, state_dict: Mapping[str, Any]) -> list[Candidate]:
    entries, problems = dialect.read(state_dict) if dialect else (untranslated(state_dict), [])
    if problems:
        return []
    shapes = {key: tuple(entry.value.shape) for key, entry in entries.items()}
    name = digest(shapes)
    found = [
        _candidate(entry, dialect, shapes)
        for entry in PUBLISHED
        if digests().get(entry.name) == name and (dialect is None or suits(dialect, entry))
    ]
    return [candidate for candidate in found if candidate]


def suits(dialect: Dialect, entry: Published) -> bool:
    """Whether there are files of this network in this dialect."""
    return any(fnmatch(entry.cls.__name__, pattern) for pattern in dialect.networks)


def _candidate(entry: Published, dialect: Dialect | None, shapes: Mapping[str, tuple[int, ...]]) -> Candidate | None:
    """The network with the arguments that ``shapes`` tell, if it has exactly these shapes then."""
    if any(shapes[key] == () for key, _ in entry.lengths.values()):
        return None
    told = {name: shapes[key][0] - less for name, (key, less) in entry.lengths.items()}
    given = {**entry.kwargs, **told}
    try:
        module = entry.cls(**given)
        mapping = entry_plan(entry, module)
    except (TypeError, ValueError):
        return None
    known = arguments(entry.cls)
    different = {key: value for key, value in given.items() if value != known[key].default}
    return Candidate(entry, different, module, mapping, dialect) if mapping.shapes == shapes else None


def entry_plan(entry: Entry, module: Module) -> Plan:
    """The plan of ``module`` for the example inputs of ``entry``."""
    args, kwargs = entry.arguments(entry.structs(module))
    return plan(module, *args, **kwargs)


def main() -> None:
    """Write the digests of all published networks."""
    found = {entry.name: digest(entry_plan(entry, entry.module()).shapes) for entry in PUBLISHED}
    DIGESTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
