"""Tables of the names that other code uses for the networks here. Each table is applied in both directions.

There is one file for each project. Its first lines say what else differs in that code.
"""

from collections.abc import Iterable
from difflib import get_close_matches

from convert.dialects import hugging_face, mmseg, openmmlab, others, timm
from convert.renaming import Dialect

DIALECTS = (
    *hugging_face.DIALECTS,
    *timm.DIALECTS,
    *openmmlab.DIALECTS,
    *mmseg.DIALECTS,
    *others.DIALECTS,
)

NATIVE, AUTO = "native", "auto"


def find_dialect(name: str) -> Dialect:
    """The dialect called ``name``. ValueError if there is none."""
    known = {dialect.name: dialect for dialect in DIALECTS}
    if name in known:
        return known[name]
    choices = [*known, NATIVE, AUTO]
    near = get_close_matches(str(name).lower(), choices, n=2)
    there_are = f"{'There' if near else 'there'} are {', '.join(choices[:-1])} and {AUTO}"
    meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"no dialect is called {name!r}; {meant}{there_are}")


def detect(keys: Iterable[str]) -> list[Dialect]:
    """The dialects whose signature ``keys`` have. The names here have the signature of none."""
    keys = list(keys)
    return [dialect for dialect in DIALECTS if dialect.speaks(keys)]


def choose(name: str | None, keys: Iterable[str]) -> Dialect | None:
    """The dialect called ``name``. None and "native": the names here, so no dialect; "auto": the one ``keys`` show.

    Raises:
        ValueError: if there is no such dialect, or if with "auto" the keys may be those of several dialects.
    """
    if name is None or name == NATIVE:
        return None
    if name != AUTO:
        return find_dialect(name)
    found = detect(keys)
    if len(found) > 1:
        names = " or ".join(dialect.name for dialect in found)
        meanings = "; ".join(f"{dialect.name} is {dialect.about}" for dialect in found)
        raise ValueError(f"the keys may be those of {names}, and they do not show which; name the dialect ({meanings})")
    return found[0] if found else None
