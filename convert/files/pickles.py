"""Reads the pickles of ``torch.save`` as plain data: no class or function named in one is imported or called.

``pickletools`` splits a pickle into opcodes, and the stack machine below knows the few opcodes that a state dict needs.
``convert/files/pickled.py`` says which classes and functions a pickle may mention, and what stands for each.
"""

import pickletools
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from convert.errors import DamagedError, RefusedError, damage
from convert.files.pickled import INT64, STORAGES, Name, Opaque, Storage, UnlistedError, call, checked_key, listed_name


def _opcodes(stream: Any) -> Iterator[tuple[str, Any]]:
    """The opcodes of the pickle at the position of ``stream``, by name, with their arguments.

    ``pickletools`` raises ValueError for bytes that are no pickle. For a backslash in a name, Python issues a warning,
    which is an exception if the user has made it one.
    """
    with damage(ValueError, Warning):
        for opcode, argument, _ in pickletools.genops(stream):
            yield opcode.name, argument


class Machine:
    """A stack machine for the opcodes of a state dict. ``storages`` collects the buffers that it mentions, by key."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str | int, Storage] = {}

    def run(self, stream: Any) -> Any:
        """The object pickled at the position of ``stream``, a file or mapped memory, which is left just behind it.

        Raises:
            RefusedError: if the pickle has a name or opcode that no table lists, or an argument of the wrong kind.
            DamagedError: if the bytes are no complete pickle.
        """
        opcodes = _opcodes(stream)
        try:
            for name, argument in opcodes:
                if name not in OPCODES:
                    raise RefusedError(f"refuses the pickle opcode {name}, which no state dict needs")
                OPCODES[name](self, argument)
        except UnlistedError as error:
            raise RefusedError(f"{error}{_hint(opcodes)}") from None
        return self.pop(1)[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list:
        if count > len(self.stack):
            raise DamagedError("the stack of the pickle is empty")
        return self._cut(len(self.stack) - count)

    def pop_mark(self) -> list:
        if not self.marks:
            raise DamagedError("the pickle has no mark")
        return self._cut(self.marks.pop())

    def _cut(self, start: int) -> list:
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, *kinds: type) -> Any:
        """The last value, which stays on the stack and must be of one of ``kinds``; of any kind if none is given."""
        if not self.stack:
            raise DamagedError("the stack of the pickle is empty")
        if kinds and type(self.stack[-1]) not in kinds:
            raise RefusedError(f"refuses to change a value of class {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def extend(self, items: list) -> None:
        self.top(list).extend(items)

    def update(self, items: list) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise DamagedError("a dict of the pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def memoize(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise DamagedError(f"the pickle recalls value {index}, which it did not store")
        self.push(self.memo[index])

    def name(self, dotted: str) -> None:
        self.push(listed_name(dotted))

    def stack_name(self) -> None:
        parts = self.pop(2)
        if not all(type(part) is str for part in parts):
            raise DamagedError("a name of the pickle is no string")
        self.name(".".join(parts))

    def build(self) -> None:
        """Drop the state that the file gives an object: nothing here reads it."""
        self.pop(1)
        self.top(dict, Opaque)

    def storage(self) -> None:
        """Read ("storage", class, key, location, count), in old files with None or (view key, start, count) behind."""
        (entry,) = self.pop(1)
        if type(entry) is not tuple or len(entry) not in (5, 6):
            raise DamagedError("a reference to a storage has not 5 or 6 parts")
        kind, name, key, _location, count, *view = entry
        listed = type(name) is Name and name.dotted in STORAGES
        keyed = type(key) is str or (type(key) is int and key in INT64)
        if type(kind) is not str or kind != "storage" or not listed or not keyed:
            raise RefusedError("expected a storage of a dtype that numpy or ml_dtypes has, got something else")
        whole = Storage(key, STORAGES[name.dotted], 0, count=count)
        self.storages.setdefault(key, whole)
        self.push(_view(whole, view[0] if view else None))


def _view(whole: Storage, view: Any) -> Storage:
    """The part of ``whole`` that ``view`` tells: (key of the view, start, count), or None for all of it."""
    if view is None:
        return whole
    if type(view) is not tuple or len(view) != 3:
        raise DamagedError("a view of a storage has not 3 parts")
    return Storage(whole.key, whole.dtype, view[1], count=view[2])


def _hint(opcodes: Iterator[tuple[str, Any]]) -> str:
    """What to add to the message if the rest of the pickle mentions the dict that every torch.nn.Module has."""
    with suppress(DamagedError):
        if any(argument == "_parameters" for _, argument in opcodes):
            return "; the file holds a whole module, expected the state dict of one"
    return ""


OPCODES: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT"),
            *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
            *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        ),
        Machine.push,
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "FROZENSET": lambda machine, _: machine.push(machine.pop_mark()),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: machine.extend(machine.pop_mark())),
    "SETITEM": lambda machine, _: machine.update(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.memoize),
    "MEMOIZE": lambda machine, _: machine.memoize(len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.recall),
    "GLOBAL": lambda machine, names: machine.name(names.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_name(),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.push(call(*machine.pop(2)))),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.storage(),
}
