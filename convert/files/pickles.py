"""Reads the pickles of ``torch.save`` as plain data: no class or function named in one is imported or called.

``pickletools`` splits a pickle into opcodes, and the stack machine below follows them. ``convert/files/calls.py`` says
what stands for a call of a function that the pickle names.
"""

import pickletools
from collections.abc import Callable, Iterator
from typing import Any

from convert.errors import DamagedError, RefusedError, damage, shown
from convert.files.calls import Keys, call
from convert.files.names import danger, require_usual, usual
from convert.files.pickled import INT64, STORAGES, Inert, Name, Storage

OPCODES_AT_MOST = 1_500_000
HUGE = 4096
"""How many bits an integer has at most. A larger one is kept as an inert object: Python is slow to print it."""


def _opcodes(stream: Any) -> Iterator[tuple[str, Any]]:
    """The opcodes of the pickle at the position of ``stream``, by name, with their arguments.

    ``pickletools`` raises ValueError for bytes that are no pickle. For a backslash in a name, Python issues a warning,
    which is an exception if the user has made it one.
    """
    with damage(ValueError, Warning, OverflowError, MemoryError):
        for opcode, argument, _ in pickletools.genops(stream):
            yield opcode.name, argument


class Machine:
    """A stack machine for pickles.

    Args:
        strict: whether a name that no state dict needs is refused.

    Attributes:
        storages: the buffers that the pickle mentions, by key.
        names: the names in the pickle that no state dict needs, each with a sentence if pickle.load would run code
            with it, else with an empty text.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.keys = Keys()
        self.storages: dict[str | int, Storage] = {}
        self.views: dict[str | int, Storage] = {}
        self.names: dict[str, str] = {}

    def run(self, stream: Any) -> Any:
        """The object pickled at the position of ``stream``, which is left just behind it.

        Raises:
            RefusedError: if the pickle has an opcode that no file on its own can have, or is too long.
            DamagedError: if the bytes are no complete pickle.
        """
        for count, (name, argument) in enumerate(_opcodes(stream)):
            if name not in OPCODES:
                raise RefusedError(f"refuses the pickle opcode {name}, which refers to data outside the file")
            if count > OPCODES_AT_MOST:
                raise RefusedError(f"expected a pickle of at most {OPCODES_AT_MOST:,} opcodes, got more")
            OPCODES[name](self, argument)
        return self.pop(1)[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_int(self, value: int) -> None:
        self.stack.append(value if value.bit_length() <= HUGE else Inert("builtins.int"))

    def pop(self, count: int) -> list:
        if count > len(self.stack) - (self.marks[-1] if self.marks else 0):
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

    def drop_mark(self) -> None:
        self.pop_mark()

    def drop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop(1)

    def top(self) -> Any:
        """The last value, which stays on the stack."""
        last = self.pop(1)[0]
        self.stack.append(last)
        return last

    def extend(self, items: list) -> None:
        target = self.top()
        if type(target) is Inert:
            target.items = [] if target.items is None else target.items
            target = target.items
        if type(target) is not list:
            raise RefusedError(f"refuses to change a value of class {type(target).__name__}")
        target.extend(items)

    def update(self, items: list) -> None:
        target = self.top()
        if type(target) is Inert:
            target.entries = {} if target.entries is None else target.entries
            target = target.entries
        if type(target) is not dict:
            raise RefusedError(f"refuses to change a value of class {type(target).__name__}")
        target.update(self.pairs(items))

    def pairs(self, items: list) -> dict:
        if len(items) % 2:
            raise DamagedError("a dict of the pickle has a key without a value")
        return {self.keys.check(key): value for key, value in zip(items[::2], items[1::2], strict=True)}

    def memoize(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise DamagedError(f"the pickle recalls value {shown(str(index))}, which it did not store")
        self.push(self.memo[index])

    def name(self, dotted: str) -> None:
        if self.strict:
            require_usual(dotted)
        if not usual(dotted):
            self.names[dotted] = danger(dotted)
        self.push(Name(dotted))

    def stack_name(self) -> None:
        parts = self.pop(2)
        if not all(type(part) is str for part in parts):
            raise DamagedError("a name of the pickle is no string")
        self.name(".".join(parts))

    def call(self, function: Any, arguments: Any) -> None:
        self.push(call(function, arguments))

    def build(self) -> None:
        """Keep the state that the file gives an inert object. A dict, list or tensor has no use for its own."""
        (state,) = self.pop(1)
        target = self.top()
        if type(target) is Inert:
            target.state = state

    def instance(self, dotted: str) -> None:
        arguments = tuple(self.pop_mark())
        self.name(dotted)
        self.call(self.pop(1)[0], arguments)

    def marked_call(self) -> None:
        function, *arguments = self.pop_mark() or [None]
        self.call(function, tuple(arguments))

    def call_with_keywords(self) -> None:
        function, arguments, keywords = self.pop(3)
        self.push(Inert(function.dotted if type(function) is Name else "object", arguments, state=keywords))

    def storage(self) -> None:
        """Read ("storage", class, key, location, count), in old files with None or (view key, start, count) behind.

        Old files have ("module", class, file, source code) in place of a class. A reference of another kind, or to a
        storage of unknown numbers, becomes an inert object.
        """
        (entry,) = self.pop(1)
        if type(entry) is tuple and len(entry) == 4 and type(entry[1]) is Name:
            self.push(entry[1])
            return
        if type(entry) is not tuple or len(entry) not in (5, 6) or type(entry[1]) is not Name:
            self.push(Inert("persistent reference", entry))
            return
        kind, name, key, _location, count, *view = entry
        keyed = type(key) is str or (type(key) is int and key in INT64)
        if type(kind) is not str or kind != "storage" or name.dotted not in STORAGES or not keyed:
            self.push(Inert(name.dotted, entry))
            return
        whole = Storage(key, STORAGES[name.dotted], 0, count=count)
        self.storages.setdefault(key, whole)
        self.push(self.view(whole, view[0] if view else None))

    def view(self, whole: Storage, view: Any) -> Storage:
        """The part of ``whole`` that ``view`` tells: (key of the view, start, count), or None for all of it."""
        if view is None:
            return whole
        if type(view) is not tuple or len(view) != 3 or type(view[0]) not in (str, int):
            raise DamagedError("a view of a storage has not 3 parts")
        part = Storage(whole.key, whole.dtype, view[1], count=view[2])
        if self.views.setdefault(view[0], part) != part:
            raise DamagedError("two views of storages have one key")
        return part


OPCODES: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"), Machine.push_int),
    **dict.fromkeys(
        (
            *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
            *("BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
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
    "POP": lambda machine, _: machine.drop(),
    "POP_MARK": lambda machine, _: machine.drop_mark(),
    "DUP": lambda machine, _: machine.push(machine.top()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "DICT": lambda machine, _: machine.push(machine.pairs(machine.pop_mark())),
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
    "INST": lambda machine, names: machine.instance(names.replace(" ", ".", 1)),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call(*machine.pop(2))),
    "NEWOBJ_EX": lambda machine, _: machine.call_with_keywords(),
    "OBJ": lambda machine, _: machine.marked_call(),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda machine, code: machine.name(f"copyreg.extension_{code}")),
    "PERSID": lambda machine, text: machine.push(Inert("persistent reference", text)),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.storage(),
}
