"""The order in which PyTorch registers the parameters and children of a module, found while a module is traced.

PyTorch's state dict lists the parameters of a module, then its buffers, then its children, each group in the order of
registration. ``module.parameters()`` has the same order. The children that are arguments come first here, then those
that ``setup`` assigns, then those that a compact call makes, in the order in which they are called: of
``Linear(3, 3, name="b")(Linear(3, 3, name="a")(x))``, Python makes "b" first.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn

from flax_attn.layers.children import inside

Path = tuple[str, ...]

Members = dict[Path, dict[str, None]]
"""The names of the leaves and children of the module at each path, in order; the values mean nothing."""

Position = tuple[tuple[int, int, str], ...]
"""What leaves are sorted by."""


@contextmanager
def members_recorded() -> Iterator[Members]:
    """The names in every module that is called in the ``with`` block, and in the modules around it.

    They are in order when the block has ended.
    """
    names: Members = {}
    called: Members = {}
    held: Members = {}

    def record(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        module: Any = context.module
        if module.scope is not None and module.path:
            called.setdefault(module.path[:-1], {}).setdefault(module.path[-1])
        result = call(*args, **kwargs)
        while isinstance(module, nn.Module) and module.scope is not None:
            inside = held_by(module)
            names.setdefault(module.path, {}).update(dict.fromkeys(names_in(module, inside)))
            held.setdefault(module.path, {}).update(dict.fromkeys(name for group in inside.values() for name in group))
            module = module.parent
            if isinstance(module, nn.Module) and module.path in names:
                break
        return result

    with nn.intercept_methods(record):
        yield names
    for path, known in names.items():
        compact = [name for name in called.get(path, ()) if name in known and name not in held[path]]
        names[path] = dict.fromkeys(arranged(known, compact))


def held_by(module: Any) -> dict[str, list[str]]:
    """The names of the children in each attribute of ``module``: arguments, and what ``setup`` assigned."""
    return {name: children(module, value) for name, value in vars(module).items() if name not in ("parent", "name")}


def names_in(module: Any, held: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of the leaves and children of ``module``, in the order of registration.

    Linen registers the modules of a list as "0", "1", "10", "11", "2"; here they come in the order of the list. A
    transform such as ``nn.remat`` registers the arguments of ``module`` out of sight; here they come first.
    """
    arguments = [name for f in dataclasses.fields(module) for name in held.get(f.name, [])]
    names = list(dict.fromkeys([*arguments, *module.scope.reservations]))
    kept = getattr(type(module), "preserve_adopted_names", False)
    for attribute, found in held.items():
        group = [name for name in found if name in names and (kept or name.startswith(f"{attribute}_"))]
        names = arranged(names, group)
    return names


def arranged(names: Iterable[str], group: Sequence[str]) -> list[str]:
    """``names``, with those of ``group`` in the order of the group, at the places that they have together."""
    ordered = iter(group)
    return [next(ordered) if name in group else name for name in names]


def children(module: Any, value: Any) -> list[str]:
    """The names of the children of ``module`` in ``value``, one of its attributes."""
    bound = [child for child in inside(value) if child.scope is not None]
    return list(dict.fromkeys(child.path[-1] for child in bound if child.path and child.path[:-1] == module.path))


class Registration:
    """The order in which PyTorch registers the leaves and the children of each module.

    Args:
        names: what ``members_recorded`` gives.
        classes: the class of the module at each path. Its ``registered_last`` and its ``aliases`` count.
    """

    def __init__(self, names: Members, classes: Mapping[Path, type]) -> None:
        found = {path: dict(known) for path, known in names.items()}
        self.firsts: dict[Path, Path] = {}
        for path, cls in classes.items():
            for second, first in getattr(cls, "aliases", ()):
                parts = second.split(".")
                self.firsts[(*path, *parts)] = (*path, *first.split("."))
                for i, name in enumerate(parts):
                    found.setdefault((*path, *parts[:i]), {}).setdefault(name)
        self.places = {path: places(found[path], last_of(classes.get(path))) for path in found}

    def position(self, path: Path, statistic: bool) -> Position:
        """What a leaf is sorted by.

        Args:
            path: the path of the leaf, or a second path of it that ``aliases`` give.
            statistic: whether the leaf is a buffer.
        """
        *parents, leaf = path
        module: Path = ()
        position = []
        for name in parents:
            position.append((2, self.place(module, name), name))
            module = self.firsts.get((*module, name), (*module, name))
        return (*position, (int(statistic), self.place(module, leaf), leaf))

    def place(self, path: Path, name: str) -> int:
        """The place of ``name`` in the module at ``path``; behind all others if the trace did not show it."""
        known = self.places.get(path, {})
        return known.get(name, len(known))


def last_of(cls: type | None) -> Sequence[str]:
    """The names that modules of class ``cls`` register after all others."""
    return getattr(cls, "registered_last", ())


def places(names: Iterable[str], last: Sequence[str]) -> dict[str, int]:
    """The place of each name; those in ``last`` come at the end, in the order given there."""
    known = list(names)
    ordered = [name for name in known if name not in last] + [name for name in last if name in known]
    return {name: place for place, name in enumerate(ordered)}
