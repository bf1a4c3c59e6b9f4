"""The two sides are one list: every public class is in the catalog and has a twin of the same signature and order."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import flax_attn
from flax_attn import blocks, models
from flax_attn.catalog import CATALOG, FLAX_ONLY
from flax_attn.layers import Module

ROOT = Path(__file__).parents[2]
CLASSES = {entry.cls for entry in CATALOG}
HOST_ONLY = {"flax_attn.models.detr.targets"}
"""Files without a class, whose functions PyTorch has no counterpart of."""
FILES = [
    found.name
    for package in (blocks, models)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not found.ispkg and found.name not in HOST_ONLY
]
OURS = {"self", "train"} | FLAX_ONLY


def flax_arguments(cls):
    fields = [f for f in dataclasses.fields(cls) if f.init and f.name not in OURS]
    none = inspect.Parameter.empty
    return {
        f.name: (none if f.default is dataclasses.MISSING else f.default, bool(f.kw_only))
        for f in sorted(fields, key=lambda f: f.kw_only)
    }


def torch_arguments(function):
    parameters = [p for name, p in inspect.signature(function).parameters.items() if name not in OURS]
    return {p.name: (p.default, p.kind is p.KEYWORD_ONLY) for p in parameters}


def public_classes(module):
    return {
        value
        for name, value in vars(importlib.import_module(module)).items()
        if inspect.isclass(value) and issubclass(value, Module) and value.__module__ == module and name[0] != "_"
    }


@pytest.mark.parametrize("module", FILES)
def test_every_public_class_is_in_the_catalog(module):
    assert public_classes(module) <= CLASSES


@pytest.mark.parametrize("cls", sorted(CLASSES, key=lambda cls: cls.__name__))
def test_twins_take_the_same_arguments(cls):
    pytest.importorskip("torch")
    from torch_ref.twins import twin

    assert list(flax_arguments(cls).items()) == list(torch_arguments(twin(cls).__init__).items())
    assert list(torch_arguments(cls.__call__)) == list(torch_arguments(twin(cls).forward))


def classes(path):
    return [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("module", FILES)
def test_twins_define_the_same_classes_in_the_same_order(module):
    ours = ROOT / (module.replace(".", "/") + ".py")
    theirs = ROOT / (module.replace(".", "/").replace("flax_attn", "torch_ref", 1) + ".py")
    assert classes(ours) == classes(theirs)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize(
    ("package", "forbidden"), [("flax_attn", {"torch", "torch_ref"}), ("convert", {"torch", "torch_ref"})]
)
def test_the_flax_side_imports_no_torch(package, forbidden):
    for path in (ROOT / package).rglob("*.py"):
        assert not forbidden & set(imports(path)), path


def test_the_torch_side_imports_only_torch():
    standard = {"collections", "contextlib", "copy", "functools", "importlib", "inspect", "itertools", "math", "typing"}
    extra = {"criterion.py": {"scipy"}}  # torch cannot solve an assignment: upstream's own import
    for path in (ROOT / "torch_ref").rglob("*.py"):
        assert set(imports(path)) <= {"torch", "torch_ref"} | standard | extra.get(path.name, set()), path


def test_the_package_names_its_public_classes():
    assert {cls.__name__ for cls in CLASSES} <= set(dir(flax_attn))
