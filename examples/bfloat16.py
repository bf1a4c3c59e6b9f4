"""Count the bytes of a training step in bfloat16: ``pip install "jax[tpu]==0.10.2"``, ``python -m examples.bfloat16``.

The step is compiled for a TPU of the kind v5e, which needs no TPU. It is the gradient of a ResNet of bottlenecks, with
``--layers`` blocks in its stages, for a batch of images; once with ``flax_attn.layers``, once with plain flax.linen.
The columns are:

- the products (convolutions and matrix products) in the step, before the compiler changes them
- those of them with a float32 operand
- the gigabytes that the compiled step reads and writes, by the compiler's own estimate

``flax.linen`` computes the variance of BatchNorm in one pass over its input, PyTorch and ``flax_attn`` in two. With
``--two-passes`` the table has flax.linen's own two passes (``use_fast_variance=False``), too. ResNet-50 is
``--layers 3 4 6 3``.
"""

import argparse
import os
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.experimental.topologies
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from flax_attn import Bottleneck, ResNet

PRODUCT = re.compile(r"stablehlo\.(?:dot_general|convolution).* : \((.*)\) ->")
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "JAX_PLATFORMS": "cpu",
}


class PlainBottleneck(nn.Module):
    """The Bottleneck of ``flax_attn`` in plain flax.linen."""

    planes: int
    stride: int
    fast_variance: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for size, planes, stride in ((1, self.planes, 1), (3, self.planes, self.stride), (1, 4 * self.planes, 1)):
            y = conv(planes, size, stride)(nn.relu(y) if size == 3 or planes != self.planes else y)
            y = norm(self.fast_variance)(y)
        if x.shape != y.shape:
            x = norm(self.fast_variance)(conv(4 * self.planes, 1, self.stride)(x))
        return nn.relu(x + y)


class PlainResNet(nn.Module):
    """The ResNet of ``flax_attn`` in plain flax.linen."""

    layers: tuple[int, ...]
    fast_variance: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(norm(self.fast_variance)(conv(64, 7, 2)(x.astype(jnp.bfloat16))))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # noqa: TID251
        for i, blocks in enumerate(self.layers):
            for j in range(blocks):
                x = PlainBottleneck(64 * 2**i, 2 if i and not j else 1, self.fast_variance)(x)
        return nn.Dense(1000, dtype=jnp.bfloat16)(x.mean((1, 2)))  # noqa: TID251


def conv(features: int, size: int, stride: int) -> nn.Module:
    """A convolution without a bias, padded as in PyTorch."""
    pad = ((size // 2, size // 2),) * 2
    return nn.Conv(features, (size, size), (stride, stride), padding=pad, use_bias=False, dtype=jnp.bfloat16)  # noqa: TID251


def norm(fast_variance: bool) -> nn.Module:
    """A BatchNorm in training mode; ``fast_variance`` says whether it computes the variance in one pass."""
    return nn.BatchNorm(use_running_average=False, dtype=jnp.bfloat16, use_fast_variance=fast_variance)  # noqa: TID251


def gradient(module: nn.Module) -> Callable[..., Any]:
    """The gradient of a loss by the parameters, in training mode."""

    def loss(params: Any, variables: Any, x: jax.Array) -> Any:
        out, changed = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.square(out.astype(jnp.float32)).mean(), changed

    return lambda variables, x: jax.value_and_grad(loss, has_aux=True)(variables["params"], variables, x)


def measure(module: nn.Module, batch: int, side: int) -> tuple[int, int, float]:
    """The three columns of one module."""
    topology = jax.experimental.topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    chip = jax.sharding.SingleDeviceSharding(topology.devices[0])
    x = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.bfloat16)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    given = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=chip), (variables, x))
    lowered = jax.jit(gradient(module)).lower(*given)
    products = PRODUCT.findall(lowered.as_text())
    cost = lowered.compile().cost_analysis()
    return len(products), sum("f32" in operands for operands in products), cost["bytes accessed"] / 1e9


def main() -> None:
    """Measure both networks, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs=4, default=[1, 1, 1, 1], help="blocks in each stage")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=224, help="height and width of the images")
    parser.add_argument("--two-passes", action="store_true", help="flax.linen with the exact variance, too")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    layers = tuple(options.layers)
    networks = {
        "flax_attn": ResNet(Bottleneck, layers, dtype=jnp.bfloat16),
        "flax.linen": PlainResNet(layers),
    }
    if options.two_passes:
        networks["flax.linen, two passes"] = PlainResNet(layers, fast_variance=False)
    table = Table("network", "products", "with a float32 operand", "GB", box=None)
    for name, module in networks.items():
        products, wide, gigabytes = measure(module, options.batch, options.side)
        table.add_row(name, str(products), str(wide), f"{gigabytes:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
