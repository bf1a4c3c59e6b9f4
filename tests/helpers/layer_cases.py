"""Arguments and an input shape, channels last, for the layers that PyTorch has under the same name; imports no torch.

An array of each shape goes through both sides in ``tests/layers/test_against_torch.py``.
"""

import inspect

import numpy as np

from flax_attn import layers

ACTIVATIONS = {
    "CELU": [{}, {"alpha": 0.5}],
    "ELU": [{}, {"alpha": 0.7}],
    "GELU": [{}, {"approximate": "tanh"}],
    "Hardsigmoid": [{}],
    "Hardswish": [{}],
    "Hardtanh": [{}, {"min_val": -3.0, "max_val": 0.5}],
    "LeakyReLU": [{}, {"negative_slope": 0.2}],
    "LogSigmoid": [{}],
    "Mish": [{}],
    "PReLU": [{}, {"num_parameters": 4}],
    "ReLU": [{}],
    "ReLU6": [{}],
    "SELU": [{}],
    "SiLU": [{}],
    "Sigmoid": [{}],
    "Softplus": [{}, {"beta": 2.0, "threshold": 5.0}],
    "Softsign": [{}],
    "Tanh": [{}],
}

ONE, TWO, THREE = (2, 7, 4), (2, 5, 6, 4), (2, 3, 5, 4, 4)
SPACES = {1: ONE, 2: TWO, 3: THREE}


def in_spaces(name, *kwargs, spaces=(1, 2, 3)):
    """A case of ``name``1d to ``name``3d for each of ``kwargs``."""
    return [(f"{name}{n}d", arguments, SPACES[n]) for n in spaces for arguments in kwargs]


SIDES = [(2, 1), (2, 1, 0, 3), (2, 1, 0, 3, 1, 2)]

CASES = [
    *((name, kwargs, TWO) for name, rows in ACTIVATIONS.items() for kwargs in rows),
    *in_spaces("AdaptiveAvgPool", {"output_size": 3}),
    *in_spaces("AdaptiveMaxPool", {"output_size": 3}),
    *in_spaces("AvgPool", {"kernel_size": 2}),
    *in_spaces("MaxPool", {"kernel_size": 2}),
    ("AlphaDropout", {}, TWO),
    ("Dropout", {}, TWO),
    *in_spaces("Dropout", {}),
    ("BatchNorm1d", {}, ONE),
    ("BatchNorm2d", {}, TWO),
    ("BatchNorm3d", {}, THREE),
    *in_spaces("InstanceNorm", {}, {"affine": True, "eps": 1e-3}),
    ("GroupNorm", {"num_groups": 2, "num_channels": 4}, TWO),
    ("LayerNorm", {"normalized_shape": (4, 5, 6)}, TWO),
    ("RMSNorm", {"normalized_shape": (4, 5, 6)}, TWO),
    ("RMSNorm", {"normalized_shape": (4, 5, 6), "eps": 1e-2, "elementwise_affine": False}, TWO),
    ("LocalResponseNorm", {"size": 3}, TWO),
    ("LocalResponseNorm", {"size": 2, "alpha": 0.3, "beta": 0.5, "k": 2.0}, ONE),
    *in_spaces("Conv", {"out_channels": 6, "kernel_size": 3}),
    *in_spaces("ConvTranspose", {"out_channels": 6, "kernel_size": 3}),
    *(
        ("Conv2d", {"out_channels": 6, "kernel_size": 3, "padding": (1, 2), "stride": 2, "padding_mode": mode}, TWO)
        for mode in ("reflect", "replicate", "circular")
    ),
    ("Conv2d", {"out_channels": 6, "kernel_size": (3, 5), "padding": "same", "dilation": (2, 1)}, TWO),
    ("Conv1d", {"out_channels": 6, "kernel_size": 4, "padding": "same", "padding_mode": "reflect"}, ONE),
    ("Conv1d", {"out_channels": 6, "kernel_size": 4, "padding": "valid", "stride": 2}, ONE),
    ("Linear", {"in_features": 7, "out_features": 3}, (2, 7)),
    ("Flatten", {}, TWO),
    ("Flatten", {"start_dim": 2}, TWO),
    ("Flatten", {"start_dim": 1, "end_dim": 2}, TWO),
    ("Flatten", {"start_dim": -2}, THREE),
    ("Identity", {}, TWO),
    ("PixelShuffle", {"upscale_factor": 2}, (2, 3, 5, 12)),
    ("PixelUnshuffle", {"downscale_factor": 3}, (2, 3, 6, 2)),
    ("Upsample", {"size": (7, 3)}, TWO),
    ("Upsample", {"scale_factor": 1.7, "mode": "bilinear", "recompute_scale_factor": True}, TWO),
    ("Upsample", {"scale_factor": 1.7, "mode": "bilinear", "align_corners": True}, TWO),
    ("UpsamplingBilinear2d", {"scale_factor": 2}, TWO),
    *(
        case
        for name in ("ReflectionPad", "ReplicationPad", "CircularPad", "ZeroPad")
        for case in in_spaces(name, {"padding": 1}, spaces=(2,))
    ),
    *(
        (f"{name}{n}d", {"padding": SIDES[n - 1]}, SPACES[n])
        for name in ("ReflectionPad", "ReplicationPad", "CircularPad", "ZeroPad")
        for n in (1, 2, 3)
    ),
    *in_spaces("ConstantPad", {"padding": 1, "value": 1.5}),
    ("ConstantPad2d", {"padding": (2, -1, 0, -2), "value": 0.0}, TWO),
    ("ReflectionPad2d", {"padding": (2, -1, -2, 1)}, TWO),
]


def public(cls):
    """The names in ``flax_attn.layers`` of the subclasses of ``cls``, those of transformers too."""
    found = {name: getattr(layers, name) for name in [*vars(layers), *layers.TRANSFORMERS] if name[0] != "_"}
    return sorted(name for name, value in found.items() if inspect.isclass(value) and issubclass(value, cls))


FIRST = {"BatchNorm": "num_features", "InstanceNorm": "num_features", "Conv": "in_channels"}
"""The argument that is the number of channels of the input, by the beginning of the layer's name."""


def arguments(name, kwargs):
    """``kwargs`` with the number of channels, 4, where the layer needs it."""
    return {first: 4 for start, first in FIRST.items() if name.startswith(start)} | kwargs


def normal(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)
