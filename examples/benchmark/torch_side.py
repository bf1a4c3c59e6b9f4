"""The PyTorch side of a measurement: the twin as it is, with channels last, and compiled."""

import contextlib
import copy
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from convert.comparing.parity import to_nchw
from examples.benchmark.case import Numbers
from flax_attn.catalog import channels_last
from torch_ref.twins import build_twin, fill, leaves


class SlowError(Exception):
    """Compiling took too long."""


def device() -> torch.device:
    """PyTorch's accelerator if it has one, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def filled(numbers: Numbers) -> torch.nn.Module:
    """The twin with the weights of ``numbers``."""
    twin = build_twin(numbers.entry.cls, numbers.entry.kwargs)
    fill(twin, numbers.state, "float32")
    return twin.to(device())


def in_form(form: str, twin: torch.nn.Module, numbers: Numbers) -> "Runner | None":
    """A copy of ``twin`` that runs in one of the ``TORCH_FORMS``; None for channels last where nothing has channels."""
    tensors = [torch.from_numpy(np.array(x)).to(device()) for x in to_nchw(numbers.entry, numbers.inputs)]
    module = copy.deepcopy(twin)
    if form == "channels_last":
        if not any(x.dim() == 4 for x in [*module.parameters(), *tensors]):
            return None
        module = module.to(memory_format=torch.channels_last)
        tensors = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in tensors]
    if form == "compile":
        torch._dynamo.reset()
        module = torch.compile(module, dynamic=False)
    return Runner(module, tensors, numbers)


class Runner:
    """Runs the forward pass or the training step of a twin; ``tensors`` are its inputs."""

    def __init__(self, module: Any, tensors: list[torch.Tensor], numbers: Numbers):
        self.module, self.tensors, self.numbers = module, tensors, numbers
        self.floats = [x for x in tensors if x.is_floating_point()]

    def precision(self) -> contextlib.AbstractContextManager:
        """Mixed precision for bfloat16."""
        enabled = self.numbers.dtype == "bfloat16"
        return torch.autocast(device().type, dtype=torch.bfloat16, enabled=enabled)

    def outputs(self) -> list[torch.Tensor]:
        args, call = self.numbers.entry.arguments(self.tensors)
        with self.precision():
            return leaves(self.module(*args, **call))

    def forward(self) -> list[torch.Tensor]:
        """The outputs in eval mode."""
        self.module.eval()
        with torch.no_grad():
            out = self.outputs()
        self.wait()
        return out

    def training(self) -> None:
        """The gradients of a training step, which the parameters and inputs hold then. The loss is that of Flax."""
        self.module.train()
        for x in self.floats:
            x.requires_grad_().grad = None
        self.module.zero_grad(set_to_none=True)
        sum(out.float().square().mean() for out in self.outputs() if out.is_floating_point()).backward()
        self.wait()

    def wait(self) -> None:
        if device().type == "cuda":
            torch.cuda.synchronize()


def arrays(numbers: Numbers, outputs: list[torch.Tensor]) -> list[np.ndarray]:
    """The outputs in Flax's layout."""
    found = [out.float().cpu().numpy() if out.is_floating_point() else out.cpu().numpy() for out in outputs]
    return [channels_last(x, layout) for x, layout in zip(found, numbers.entry.outputs, strict=True)]


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raises ``SlowError`` in what it surrounds after ``seconds``, where the system has alarms."""

    def stop(*_: Any) -> None:
        raise SlowError(f"torch.compile took more than {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_on_device(call: Callable[[], Any]) -> int:
    """How far the memory of the accelerator grows during a call."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before
