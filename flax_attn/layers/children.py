"""Refuses children that a module cannot have, or whose parameters would get other keys than in PyTorch."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn

LINEN = frozenset(dir(nn.Module)) | {"name", "parent", "scope"}
"""Names that linen uses in every module."""


def inside(value: Any) -> Iterator[nn.Module]:
    """The modules in lists, tuples and dicts."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, list | tuple | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from inside(item)


def _complaint(what: str, value: Any, name: str) -> str:
    """What is wrong with a plain list or dict of modules."""
    kind, remedy = ("dict", "ModuleDict") if isinstance(value, Mapping) else ("list or tuple", "ModuleList")
    key = next(iter(value)) if isinstance(value, Mapping) else 0
    return f"{what} is a plain {kind} of modules, whose keys would begin with '{name}_{key}'; use {remedy}"


def check_assignment(module: nn.Module, name: str, value: Any) -> None:
    """Refuse ``self.name = value`` in ``setup`` where linen would only say that attributes are frozen, or nothing."""
    who, modules = type(module).__name__, list(inside(value))
    keep = f"self.{name}_ = Layer(..., name={name!r}) keeps the keys"
    field = {f.name: f for f in dataclasses.fields(module)}.get(name)
    if field and field.init:
        if modules:
            remedy = f"give the child another name, or the argument; {keep}"
            raise TypeError(f"{who}: {name!r} is both an argument and a child; {remedy}")
        raise TypeError(f"{who}: {name!r} is an argument, which setup cannot change; assign to another name")
    if not any(child.name is None for child in modules):
        return
    if name in LINEN or name in dir(_base(module)):
        raise TypeError(f"{who}: {name!r} is an attribute of every Module; give the child another name; {keep}")
    if any(True for _ in inside(vars(module).get(name))):
        raise TypeError(f"{who}: {name!r} is assigned twice in setup; give each child a name of its own")
    if not isinstance(value, nn.Module):
        raise TypeError(_complaint(f"{who}: {name!r}", value, name))


def _base(module: nn.Module) -> type:
    """The class ``Module`` of this package."""
    return next(cls for cls in type(module).__mro__ if cls.__module__ == "flax_attn.layers.module")


def check_adopted(module: nn.Module) -> None:
    """Refuse a call of a module that its parent holds in a list, a tuple or a dict that was given as an argument."""
    parent: Any = module.parent
    name = module.name or ""
    if not hasattr(parent, "check_call") or getattr(parent, "preserve_adopted_names", False):
        return
    for field in dataclasses.fields(parent):
        if field.name in ("parent", "name") or not name.startswith(f"{field.name}_"):
            continue
        value = vars(parent).get(field.name)
        if not isinstance(value, nn.Module) and any(child is module for child in inside(value)):
            raise TypeError(_complaint(f"{type(parent).__name__}: the argument {field.name!r}", value, field.name))
