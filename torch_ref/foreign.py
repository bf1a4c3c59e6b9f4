"""What ``convert.compare`` needs of a torch module that a user wrote. The module itself is never changed."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torch_ref.twins import Arguments

Factor = Callable[[str, float], float]

ELEMENTS = ("dropout", "alpha_dropout")
CHANNELS = ("dropout1d", "dropout2d", "dropout3d")
SAMPLES = ("DropPath", "StochasticDepth")


def is_module(value: Any) -> bool:
    """Whether ``value`` is a torch module, or a class of torch modules."""
    return isinstance(value, nn.Module) or (isinstance(value, type) and issubclass(value, nn.Module))


def copied(module: nn.Module) -> nn.Module:
    """A deep copy on the CPU. All its parameters are trained, and recurrent layers have no dropout."""
    copy_ = copy.deepcopy(module).cpu().requires_grad_(True)
    for layer in copy_.modules():
        if isinstance(layer, nn.RNNBase):
            layer.dropout = 0.0
    return copy_


def shared_keys(module: nn.Module) -> list[list[str]]:
    """The keys of the state dict that are one and the same parameter, in groups of two or more."""
    groups: dict[int, list[str]] = {}
    for key, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def named_leaves(tree: Any, path: str = "") -> dict[str, Tensor]:
    """The tensors in nested tuples, lists and dicts by their place, such as "1" or "aux.0.logits"; "" for one tensor.

    Raises:
        TypeError: if there is something else in them.
    """
    if tree is None:
        return {}
    if isinstance(tree, Tensor):
        return {path: tree}
    if isinstance(tree, Mapping):
        pairs = [(key, tree[key]) for key in sorted(tree)]
    elif isinstance(tree, tuple | list):
        pairs = list(zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True))
    else:
        raise TypeError(f"expected tensors in tuples, lists and dicts as the result, got a {type(tree).__name__}")
    return {
        name: leaf for key, branch in pairs for name, leaf in named_leaves(branch, f"{path}.{key}".strip(".")).items()
    }


def called(module: nn.Module, arguments: Arguments, inputs: Sequence[Any], train: bool = False) -> dict[str, Any]:
    """The outputs of ``module`` by name, as numpy arrays.

    Raises:
        TypeError: if the module refuses the inputs, or returns something other than tensors.
    """
    args, call = arguments([torch.tensor(x) for x in inputs])
    with torch.no_grad():
        return {name: leaf.numpy() for name, leaf in named_leaves(module.train(train)(*args, **call)).items()}


def layer_outputs(module: nn.Module, arguments: Arguments, inputs: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """(path, outputs) of every call of a layer in eval mode, in the order in which the calls end."""
    found: list[tuple[str, list[Any]]] = []

    def record(path: str, layer: nn.Module, args: Any, output: Any) -> None:
        with suppress(TypeError):
            found.append((path, [leaf.numpy().copy() for leaf in named_leaves(output).values()]))

    hooks = [layer.register_forward_hook(partial(record, path)) for path, layer in module.named_modules()]
    called(module, arguments, inputs)
    for hook in hooks:
        hook.remove()
    return found


def draws_numbers(module: nn.Module, arguments: Arguments, inputs: Sequence[Any]) -> bool:
    """Whether two calls in training mode, with other seeds, give other outputs."""
    results = []
    for seed in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            results.append(called(module, arguments, inputs, train=True))
    first, second = results
    return any((first[name] != second[name]).any() for name in first)


@contextmanager
def scaled_dropout(module: nn.Module, factor: Factor) -> Iterator[None]:
    """Every dropout multiplies with ``factor(class, rate)`` in training mode, as long as the ``with`` block runs.

    Those of ``module`` and the functions of ``torch.nn.functional``, which the layers of torch call too.
    """
    with ExitStack() as stack:
        for names, kind in ((ELEMENTS, "Dropout"), (CHANNELS, "Dropout2d")):
            for name in names:
                stack.enter_context(replaced(functional, name, partial(scaled, factor, kind)))
        attention = partial(scaled_attention, functional.scaled_dot_product_attention, factor)
        stack.enter_context(replaced(functional, "scaled_dot_product_attention", attention))
        for layer in module.modules():
            if type(layer).__name__ in SAMPLES:
                stack.enter_context(replaced(layer, "forward", partial(scaled_samples, layer, factor)))
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner.name`` is ``value`` as long as the ``with`` block runs."""
    missing = name not in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if missing else setattr(owner, name, original)


def scaled(
    factor: Factor, kind: str, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """In the place of ``torch.nn.functional.dropout``."""
    return input * factor(kind, p) if training else input


def scaled_samples(layer: Any, factor: Factor, x: Tensor) -> Tensor:
    """In the place of the call of a DropPath."""
    rate = next((getattr(layer, name) for name in ("p", "drop_prob") if hasattr(layer, name)), None) or 0.0
    return x * factor("DropPath", rate) if layer.training else x


def scaled_attention(
    attend: Any,
    factor: Factor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """In the place of ``scaled_dot_product_attention``: a factor of all weights is a factor of the result."""
    return attend(query, key, value, attn_mask, 0.0, *args, **kwargs) * factor("Dropout", dropout_p)
