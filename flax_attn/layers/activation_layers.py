"""``torch.nn``'s activations as modules, each with the arguments of PyTorch's but ``inplace``.

A layer without arguments may also be given as a function: ``Sequential([Conv2d(3, 8, 3), relu])``."""

import flax.linen as nn
from jaxtyping import Array

from flax_attn.layers import activation, init
from flax_attn.layers.module import Module, require, softmax


class ReLU(Module):
    """``torch.nn.ReLU``: see ``relu``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.relu(self.cast(x))


class ReLU6(Module):
    """``torch.nn.ReLU6``: see ``relu6``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.relu6(self.cast(x))


class LeakyReLU(Module):
    """``torch.nn.LeakyReLU``: see ``leaky_relu``."""

    negative_slope: float = 0.01

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.leaky_relu(self.cast(x), self.negative_slope)


class PReLU(Module):
    """``torch.nn.PReLU``: ``leaky_relu`` with learned slopes, one for all channels or one a channel of the last axis.

    Args:
        num_parameters: 1, or the number of channels.
        initial: the slope at the start. PyTorch calls it ``init``, which is a method of every Flax module.

    Leaf: ``weight`` (num_parameters,).
    """

    num_parameters: int = 1
    initial: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_parameters >= 1, f"PReLU: expected num_parameters >= 1, got {self.num_parameters}")

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if self.num_parameters > 1:
            self.check_channels(x, self.num_parameters, [x.ndim])
        weight = self.parameter("weight", init.constant(self.initial), (self.num_parameters,))
        return activation.prelu(*self.promote(x, weight))


class SiLU(Module):
    """``torch.nn.SiLU``: see ``silu``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.silu(self.cast(x))


class Mish(Module):
    """``torch.nn.Mish``: see ``mish``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.mish(self.cast(x))


class Hardswish(Module):
    """``torch.nn.Hardswish``: see ``hardswish``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.hardswish(self.cast(x))


class Hardsigmoid(Module):
    """``torch.nn.Hardsigmoid``: see ``hardsigmoid``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.hardsigmoid(self.cast(x))


class Hardtanh(Module):
    """``torch.nn.Hardtanh``: see ``hardtanh``."""

    min_val: float = -1.0
    max_val: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = self.min_val < self.max_val
        require(ordered, f"Hardtanh: expected min_val < max_val, got {self.min_val} and {self.max_val}")

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.hardtanh(self.cast(x), self.min_val, self.max_val)


class ELU(Module):
    """``torch.nn.ELU``: see ``elu``."""

    alpha: float = 1.0

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.elu(self.cast(x), self.alpha)


class SELU(Module):
    """``torch.nn.SELU``: see ``selu``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.selu(self.cast(x))


class CELU(Module):
    """``torch.nn.CELU``: see ``celu``."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha != 0, "CELU: expected alpha other than 0, got 0")

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.celu(self.cast(x), self.alpha)


class GELU(Module):
    """``torch.nn.GELU``: see ``gelu``."""

    approximate: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.approximate in ("none", "tanh")
        require(known, f"GELU: expected approximate 'none' or 'tanh', got {self.approximate!r}")

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.gelu(self.cast(x), self.approximate)


class Softplus(Module):
    """``torch.nn.Softplus``: see ``softplus``."""

    beta: float = 1.0
    threshold: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta != 0, "Softplus: expected beta other than 0, got 0")

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.softplus(self.cast(x), self.beta, self.threshold)


class Softsign(Module):
    """``torch.nn.Softsign``: see ``softsign``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.softsign(self.cast(x))


class Tanh(Module):
    """``torch.nn.Tanh``: see ``tanh``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.tanh(self.cast(x))


class Sigmoid(Module):
    """``torch.nn.Sigmoid``: see ``sigmoid``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.sigmoid(self.cast(x))


class LogSigmoid(Module):
    """``torch.nn.LogSigmoid``: see ``log_sigmoid``."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.log_sigmoid(self.cast(x))


class Softmax(Module):
    """``torch.nn.Softmax``: see ``softmax``.

    Args:
        dim: the axis of the channels-last array. The default is the axis of the channels, where PyTorch has ``dim=1``;
            PyTorch's own default, which depends on the rank, is deprecated.
    """

    dim: int = -1

    def __call__(self, x: Array, train: bool = False) -> Array:
        return softmax(self.cast(x), self.dim)


class LogSoftmax(Module):
    """``torch.nn.LogSoftmax``: the logarithm of ``Softmax``, with the same argument."""

    dim: int = -1

    def __call__(self, x: Array, train: bool = False) -> Array:
        return activation.log_softmax(self.cast(x), self.dim)
