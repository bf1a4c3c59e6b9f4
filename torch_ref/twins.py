"""Twins are found by path: ``flax_attn.blocks.se.SELayer`` is ``torch_ref.blocks.se.SELayer`` on this side."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


def twin(flax_object: Any) -> Any:
    """The class or function of the same name at the same path; for a layer that torch.nn has, torch.nn's."""
    path = flax_object.__module__.replace("flax_attn.", "torch_ref.", 1)
    if path.startswith("torch_ref.layers.") and hasattr(nn, flax_object.__name__):
        return getattr(nn, flax_object.__name__)
    return getattr(importlib.import_module(path), flax_object.__name__)


def outputs(module: nn.Module, state_dict: Mapping[str, Any], inputs: Sequence[Any], **call: Any) -> Any:
    """What ``module`` gives in eval mode for numpy ``inputs``, with the numpy arrays of ``state_dict`` in it."""
    tensors = {key: torch.as_tensor(value.copy()) for key, value in state_dict.items()}
    dtype = torch.as_tensor(inputs[0]).dtype
    module.to(dtype).load_state_dict({k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()})
    with torch.no_grad():
        call = {key: torch.as_tensor(value) if hasattr(value, "shape") else value for key, value in call.items()}
        return module.eval()(*map(torch.as_tensor, inputs), **call)
