"""The rules of this code that ruff does not know: every file, read with ``ast``."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["flax_attn", "torch_ref", "convert", "docs", "examples"]
PAPERS = re.compile(r"(flax_attn|torch_ref)/(blocks|models)/(?!.*__init__)")
FLAX_PAPERS = re.compile(r"flax_attn/(blocks|models)/(?!.*__init__)")
LABEL = re.compile(r"(?<=[.\n]\n)([A-Z]\w*(?: \w+){0,3}):\s")
LABELS = {"Follows", "Differs", "Assumed"}
NO_PAPER = {"models/preprocess.py", "models/digits_net.py"}
OURS = {"models/digits_net.py"}
FREE_CALLS = {"Sequential", "ModuleList", "PartitionSpec", "P", "Table"}
SHAPES = {"Float", "Bool", "Int", "Num", "Shaped"}
LAZY = {
    "matplotlib": "only who plots needs it",
    "scipy": "only the twin of DETR's matcher needs it",
}
FILE_LINES = 300
LINES = {ast.FunctionDef: 30, ast.ClassDef: 100}
LONG_CLASSES = {"MultiheadAttention": "it has all arguments of PyTorch's"}

Complaints = Iterator[tuple[int, str]]


class File(NamedTuple):
    """A file of the project: its path from the root, its text and its tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def parsed(path: str, text: str) -> File:
    return File(path, text, ast.parse(text))


@cache
def project() -> dict[str, File]:
    """All files by the name of their module."""
    paths = [path for folder in [*FOLDERS, "tests"] for path in sorted((ROOT / folder).rglob("*.py"))]
    files = [parsed(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]
    return {file.module: file for file in files}


CHECKED = [file.path for file in project().values() if not file.path.startswith("tests/")]


def imported(node: ast.AST) -> list[tuple[str, str]]:
    """(the name that the import binds, the full name of what is imported) for each name of an import."""
    if isinstance(node, ast.ImportFrom):
        return [(alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names]
    if isinstance(node, ast.Import):
        return [(alias.asname or alias.name, alias.name) for alias in node.names]
    return []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(file: File) -> Complaints:
    bound = {name: full for node in ast.walk(file.tree) for name, full in imported(node)}
    for node in ast.walk(file.tree):
        for _, full in imported(node):
            module, _, name = full.rpartition(".")
            if is_private(name) and module in project():
                yield node.lineno, f"{name} of {module} is private: give it a public name or keep it in its file"
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            value = ast.unparse(node.value)
            if bound.get(value, value) in project():
                yield node.lineno, f"{value}.{node.attr} is private: give it a public name or keep it in its file"


def run_at_import(tree: ast.AST) -> Iterator[ast.stmt]:
    """The statements that are not in a function or under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef) and not typing:
            yield node
            yield from run_at_import(node)


def needed(file: File) -> dict[str, int]:
    """The project's modules that an import of ``file`` imports, with the lines. Packages above them do not count."""
    found = {}
    for node in run_at_import(file.tree):
        for _, full in imported(node):
            for module in (full, full.rpartition(".")[0] if isinstance(node, ast.ImportFrom) else full):
                if module in project():
                    found.setdefault(module, node.lineno)
                    break
    return found


@cache
def reachable(module: str) -> set[str]:
    """The modules that ``module`` needs, directly or not."""
    found, left = set(), [module]
    while left:
        new = needed(project()[left.pop()]).keys() - found
        found |= new
        left += new
    return found


def import_circles(file: File) -> Complaints:
    for module, line in needed(file).items():
        if module == file.module or file.module in reachable(module):
            yield line, f"{module} imports {file.module} in its turn: move what both need to a third file"


@cache
def classes() -> set[str]:
    """The classes of the project, and those of torch.nn that it imports."""
    found = set()
    for file in project().values():
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.ImportFrom) and node.module == "torch.nn":
                found |= {alias.name for alias in node.names if alias.name[0].isupper()}
    return found - FREE_CALLS


def long_calls(file: File) -> Complaints:
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rpartition(".")[2]
        if last in FREE_CALLS or (last not in classes() and not re.fullmatch(r"nn\.[A-Z]\w+", name)):
            continue
        if len(node.args) > 3:
            yield node.lineno, f"{name}: pass the arguments from the fourth on by keyword"
        if any(isinstance(arg, ast.Starred) for arg in node.args):
            yield node.lineno, f"{name}: write the arguments out in place of the starred one"


def docstrings(file: File) -> Complaints:
    if not PAPERS.match(file.path):
        return
    text = ast.get_docstring(file.tree) or ""
    short = file.path.partition("/")[2]
    if short not in NO_PAPER and not re.match(r".+ - .+, https?://\S+$", text.partition("\n")[0]):
        yield 1, "begin the file with: Title - Authors Year, http..."
    if not FLAX_PAPERS.match(file.path):
        return
    labels = LABEL.findall(text)
    if "Follows" not in labels and short not in OURS:
        yield 1, "say in a line Follows: whose arithmetic and key names these are"
    for label in labels:
        if label not in LABELS:
            line = text.partition(f"{label}:")[0].count("\n") + 1
            yield line, f"the label {label}: is none of Follows:, Differs:, Assumed:"


def sizes(file: File) -> Complaints:
    if not FLAX_PAPERS.match(file.path):
        return
    if (count := file.text.count("\n")) > FILE_LINES:
        yield FILE_LINES, f"{count} lines: split the file, at most {FILE_LINES}"
    for node in ast.walk(file.tree):
        if (limit := LINES.get(type(node))) is None or node.name in LONG_CLASSES:
            continue
        if (count := node.end_lineno - node.lineno + 1) > limit:
            yield node.lineno, f"{node.name} has {count} lines: split it, at most {limit}"


def is_shape(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in SHAPES


def shape_names(file: File) -> dict[str, tuple[str, int]]:
    """The shapes that ``file`` gives a name: name to spelling and line."""
    assigned = [node for node in file.tree.body if isinstance(node, ast.Assign) and is_shape(node.value)]
    return {ast.unparse(node.targets[0]): (ast.unparse(node.value), node.lineno) for node in assigned}


def named_twice(file: File) -> Complaints:
    others = [other for other in project().values() if other.path.startswith("flax_attn/") and other.path != file.path]
    for name, (shape, line) in shape_names(file).items() if file.path.startswith("flax_attn/") else ():
        for other in others:
            for other_name, (other_shape, _) in shape_names(other).items():
                if name == other_name or shape == other_shape:
                    yield (
                        line,
                        f"{name} = {shape}: {other.path} has {other_name} = {other_shape}; keep one, in shapes.py",
                    )


def spelled_shapes(file: File) -> Complaints:
    if not FLAX_PAPERS.match(file.path):
        return
    known = {shape: name for name, (shape, _) in shape_names(project()["flax_attn.shapes"]).items()}
    aliases = {line for _, line in shape_names(file).values()}
    for node in ast.walk(file.tree):
        if is_shape(node) and node.lineno not in aliases and (name := known.get(ast.unparse(node))):
            yield node.lineno, f"{ast.unparse(node)}: write {name} of flax_attn.shapes"


def imports_of_tests(file: File) -> Complaints:
    for node in ast.walk(file.tree):
        for _, full in imported(node) if file.path.startswith(("examples/", "docs/")) else ():
            if full.partition(".")[0] == "tests":
                yield node.lineno, f"{full}: examples and docs run without the tests"


def late_imports(file: File) -> Complaints:
    functions = (node for node in ast.walk(file.tree) if isinstance(node, ast.FunctionDef))
    for node in {inside: None for function in functions for inside in ast.walk(function)}:
        for _, full in imported(node):
            if full.partition(".")[0] not in LAZY:
                yield node.lineno, f"{full}: import it at the top of the file"


RULES = [
    private_names,
    import_circles,
    long_calls,
    docstrings,
    sizes,
    named_twice,
    spelled_shapes,
    imports_of_tests,
    late_imports,
]


def complaints(file: File) -> list[str]:
    return [f"{file.path}:{line}: {text}" for rule in RULES for line, text in rule(file)]


@pytest.mark.parametrize("path", CHECKED)
def test_file_keeps_the_rules(path):
    found = complaints(next(file for file in project().values() if file.path == path))
    assert not found, "\n" + "\n".join(found)


HEAD = '"""Title - Author 2020, https://arxiv.org/abs/1\n\nFollows: owner/repo.\n"""\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HEAD}from flax_attn.layers.conv import _a", ["_a of flax_attn.layers.conv is private"]),
        (f"{HEAD}from flax_attn.layers import conv\nconv._a", ["conv._a is private"]),
        (f"{HEAD}from flax_attn.blocks.x import y", ["flax_attn.blocks.x imports flax_attn.blocks.x"]),
        (f"{HEAD}SELayer(1, 2, 3, 4)", ["by keyword"]),
        (f"{HEAD}nn.Conv2d(*a)", ["in place of the starred one"]),
        (f"{HEAD}Sequential(1, 2, 3, 4, *a)", []),
        ('"""Title.\n\nStatus: done.\n"""', ["begin the file", "in a line Follows:", "the label Status:"]),
        (HEAD + "\n" * 310, ["split the file"]),
        (f"{HEAD}def f():\n" + "    a()\n" * 30, ["f has 31 lines"]),
        (f"{HEAD}class A:\n" + "    a = 1\n" * 100, ["A has 101 lines"]),
        (f'{HEAD}Volume = Float[Array, "a"]', ["keep one"]),
        (f'{HEAD}A = Float[Array, "n h w c"]', ["keep one"]),
        (f'{HEAD}def f(x: Float[Array, "n h w c"]): ...', ["write Image of flax_attn.shapes"]),
        (f"{HEAD}def f():\n    import json", ["at the top"]),
        (f"{HEAD}if TYPE_CHECKING:\n    import json", []),
    ],
)
def test_rules_find_what_they_are_for(text, words, monkeypatch):
    file = parsed("flax_attn/blocks/x.py", text)
    monkeypatch.setitem(project(), file.module, file)
    reachable.cache_clear()
    found = complaints(file)
    reachable.cache_clear()
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


def test_examples_must_not_import_tests():
    assert "without the tests" in complaints(parsed("examples/x.py", "from tests.helpers import data"))[0]
