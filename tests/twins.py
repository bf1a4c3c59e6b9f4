"""Compares the two files of a pair, line by line, without what must differ: ``python -m tests.twins [PAIR]``.

With PAIR, such as ``blocks/se``, the unified diff of the PyTorch file and the Flax file. Without, a table of all pairs.
Both files are first rewritten by ``Normal``, which drops types, checks, docstrings and imports.
"""

import argparse
import ast
import difflib
import re
import statistics
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
DROPPED = (ast.Import, ast.ImportFrom, ast.Raise, ast.Assert, ast.Pass)
PREFIXES = {"self", "nn", "jnp", "torch", "functional"}
NAMES = {"__call__": "forward", "__init__": "setup", "__post_init__": "setup"}
ACTIVATIONS = {"ReLU", "Sigmoid", "GELU"}
CONTAINERS = {"Sequential", "ModuleList"}
CHECK = re.compile(r"(self\.)?(require|check)(_\w+)?\(|super\(\)\.(setup|__init__|__post_init__)\(")
TYPE = re.compile(r"(Float|Bool|Int|Num|Shaped|Mapping|Sequence|Callable|dict)\[")


class Normal(ast.NodeTransformer):
    """Rewrites both sides to one spelling; a visit that returns None drops the node."""

    def visit(self, node):
        return None if isinstance(node, DROPPED) else super().visit(node)

    def visit_Expr(self, node):
        dropped = isinstance(node.value, ast.Constant) or CHECK.match(ast.unparse(node))
        return None if dropped else self.generic_visit(node)

    def visit_If(self, node):
        self.generic_visit(node)
        return node if node.body or node.orelse else None

    def visit_ClassDef(self, node):
        node.decorator_list = []
        node.body = [line for line in node.body if not is_field(line)]
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        rewritten = {"setup", "forward"} & {node.name, NAMES.get(node.name)}
        node.name = NAMES.get(node.name, node.name)
        node.decorator_list, node.returns = [], None
        self.generic_visit(node)
        if rewritten:
            node.args = ast.arguments([], [ast.arg("...")], None, [], [], None, [])
        return node if node.body else None

    def visit_arguments(self, node):
        """Without ``self`` and ``train``; a parameter takes its default with it."""
        bare = [None] * (len(node.args) - len(node.defaults))
        kept = [(arg, d) for arg, d in zip(node.args, bare + node.defaults, strict=True) if not is_dropped(arg.arg)]
        node.args, node.defaults = [arg for arg, _ in kept], [d for _, d in kept if d is not None]
        named = [(arg, d) for arg, d in zip(node.kwonlyargs, node.kw_defaults, strict=True) if not is_dropped(arg.arg)]
        node.kwonlyargs, node.kw_defaults = [arg for arg, _ in named], [d for _, d in named]
        return self.generic_visit(node)

    def visit_arg(self, node):
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node):
        return self.visit(ast.Assign([node.target], node.value, lineno=0)) if node.value else None

    def visit_Assign(self, node):
        """Without the parts ``x = x``, also those of ``x, y = x, 2``; a name for a type is dropped."""
        self.generic_visit(node)
        target, value = node.targets[-1], node.value
        split = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts)
        parts = zip(target.elts, value.elts, strict=True) if split else [(target, value)]
        kept = [(ast.unparse(t), ast.unparse(v)) for t, v in parts]
        kept = [(t, v) for t, v in kept if v not in (t, "type(self).__name__") and not TYPE.match(v)]
        return ast.Expr(ast.Name(" = ".join(map(", ".join, zip(*kept, strict=True))))) if kept else None

    def visit_Attribute(self, node):
        node.attr = NAMES.get(node.attr, node.attr)
        self.generic_visit(node)
        return ast.Name(node.attr) if isinstance(node.value, ast.Name) and node.value.id in PREFIXES else node

    def visit_Call(self, node):
        self.generic_visit(node)
        node.args = [arg for arg in node.args if ast.unparse(arg) != "train"]
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "train"]
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "cast":
            return node.args[0]
        if name in ACTIVATIONS:
            return ast.Name(name.lower())
        if name in CONTAINERS and len(node.args) == 1:
            (layers,) = node.args
            layers = layers.value if isinstance(layers, ast.Starred) else layers
            node.args = layers.elts if isinstance(layers, ast.List) else [layers]
        return node


def is_field(line: ast.stmt) -> bool:
    return isinstance(line, ast.AnnAssign) and not ast.unparse(line.annotation).startswith("ClassVar")


def is_dropped(name: str) -> bool:
    return name in ("self", "train")


def pairs() -> list[str]:
    """The paths, without folder and suffix, that exist on both sides."""
    both = (
        {path.relative_to(ROOT / side).with_suffix("").as_posix() for path in (ROOT / side).rglob("*.py")}
        for side in ("torch_ref", "flax_attn")
    )
    return sorted(pair for pair in set.intersection(*both) if not pair.endswith("__init__"))


def lines(side: str, pair: str) -> list[str]:
    """The lines of one file after normalisation."""
    tree = Normal().visit(ast.parse((ROOT / side / f"{pair}.py").read_text()))
    return [line for line in ast.unparse(tree).splitlines() if line]


def share(pair: str) -> float:
    """The part of the PyTorch file's lines that stand in the Flax file too."""
    reference, flax = lines("torch_ref", pair), lines("flax_attn", pair)
    return (Counter(reference) & Counter(flax)).total() / len(reference)


def diff(pair: str) -> str:
    names = [f"torch_ref/{pair}.py", f"flax_attn/{pair}.py"]
    return "\n".join(difflib.unified_diff(lines("torch_ref", pair), lines("flax_attn", pair), *names, lineterm=""))


def table() -> Table:
    made = Table("pair", "torch lines", "Flax lines", "share")
    for pair in pairs():
        made.add_row(pair, *(str(len(lines(side, pair))) for side in ("torch_ref", "flax_attn")), f"{share(pair):.0%}")
    made.add_section()
    made.add_row("median", "", "", f"{statistics.median(map(share, pairs())):.0%}")
    return made


def main() -> None:
    """Print the diffs of the pairs that the command line names, or the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("pairs", nargs="*", metavar="PAIR", help="a path without folder and suffix, as blocks/se")
    given = options.parse_args().pairs
    for pair in given:
        if pair not in pairs():
            options.error(f"no pair is called {pair!r}; without an argument, the command lists all pairs")
        print(diff(pair) or f"{pair}: no line differs")
    if not given:
        Console().print(table())


if __name__ == "__main__":
    main()
