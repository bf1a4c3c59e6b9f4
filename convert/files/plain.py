"""What lies beside a state dict, as plain Python values."""

from collections.abc import Callable
from typing import Any

import numpy as np

from convert.errors import RefusedError
from convert.files.arrays import as_bytes, is_array, is_scalar, lazy_array, scalar
from convert.files.pickled import Inert, Name, Tensor

NAMESPACES = ("argparse.Namespace", "types.SimpleNamespace", "simplenamespace.SimpleNamespace")
PATHS = ("PurePath", "PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath", "Path")


def plain(tree: Any, array: Callable[[Tensor], np.ndarray]) -> Any:
    """``tree`` of numbers, strings, dicts and lists; tensors become numpy arrays, and tuples and sets become lists.

    An object of an unknown class stays an ``Inert`` object, whose arguments, state and contents are plain values.
    """
    return _Plain(array).convert(tree)


class _Plain:
    """Converts each object once, and without recursion: a pickle can nest lists a million deep, and in themselves."""

    def __init__(self, array: Callable[[Tensor], np.ndarray]):
        self.array = array
        self.done: dict[int, Any] = {}
        self.waiting: list[tuple[Any, Any]] = []

    def convert(self, tree: Any) -> Any:
        converted = self.one(tree)
        while self.waiting:
            made, given = self.waiting.pop()
            if type(made) is dict:
                made |= {self.key(key): self.one(value) for key, value in given.items()}
            elif type(made) is list:
                made += [self.one(value) for value in given]
            else:
                made.arguments, made.state = self.one(given.arguments), self.one(given.state)
                made.entries, made.items = self.one(given.entries), self.one(given.items)
        return converted

    def one(self, value: Any) -> Any:
        """The converted value; the contents of a container follow later."""
        if type(value) in (str, int, float, bool, complex, bytes, type(None)):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = self.start(value)
        return self.done[id(value)]

    def start(self, value: Any) -> Any:
        if type(value) is Tensor:
            return self.array(value)
        if type(value) is Name:
            return value.dotted
        if type(value) is bytearray:
            return bytes(value)
        if type(value) in (list, tuple):
            return self.later([], value)
        if type(value) is dict:
            return self.later({}, value)
        return self.inert(value) if type(value) is Inert else f"<{type(value).__name__}>"

    def later(self, made: Any, given: Any) -> Any:
        self.waiting.append((made, given))
        return made

    def inert(self, value: Inert) -> Any:
        """An object of a class whose content is plain data, or else a copy of the inert object."""
        last = value.name.rpartition(".")[2]
        try:
            if is_array(value):
                return scalar(value) if is_scalar(value) else lazy_array(value).make()
            if value.name == "_codecs.encode":
                return as_bytes(value)
        except RefusedError:
            return Inert(value.name, reason=value.reason)
        if value.name in NAMESPACES and type(value.state) is dict:
            return self.later({}, value.state)
        if value.name.startswith("pathlib") and last in PATHS and all(type(part) is str for part in value.arguments):
            return "/".join(value.arguments).replace("//", "/", 1)
        if value.name == "torch.device":
            return ":".join(map(str, value.arguments[:2]))
        if value.entries is not None and value.items is None:
            return self.later({}, value.entries)
        if value.items is not None and value.entries is None:
            return self.later([], value.items)
        return self.later(Inert(value.name, reason=value.reason), value)

    def key(self, key: Any) -> Any:
        """A key as a string, a number, a tuple of these, or an inert object."""
        if type(key) is tuple:
            return tuple(self.key(part) for part in key)
        converted = self.one(key)
        return converted if type(converted) not in (list, dict, np.ndarray) else Inert(key.name)
