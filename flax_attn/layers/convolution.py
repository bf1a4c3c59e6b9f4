"""The convolution behind ``Conv`` and ``ConvTranspose``. Trap: on a CPU, the gradient of XLA's own convolution with
groups takes many times as long as PyTorch's.

So the convolution is a primitive of its own. A CPU computes it in the forms of ``convolution_forms``, any other
platform by ``lax.conv_general_dilated``. ``jax.lax.platform_dependent`` would choose too, but it changes the program
that a TPU gets: it leaves a ``case`` around each convolution, and zeros for the branch that is not taken.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike
from jaxtyping import Array

from flax_attn.layers.convolution_forms import fastest
from flax_attn.layers.convolution_shapes import OPERANDS, Convolution
from flax_attn.layers.convolution_threads import xla
from flax_attn.layers.plain import PLAIN, has_known_shape


def convolution(x: Array, kernel: Array, preferred_element_type: DTypeLike | None = None, **geometry: Any) -> Array:
    """The convolution of x (n, *space, in) with kernel (*k, in/groups, out), computed as the platform does it best.

    Args:
        preferred_element_type: the dtype of the result; that of x when None.
        geometry: ``strides``, ``pads``, ``dilation``, ``lhs_dilation`` and ``groups`` of a ``Convolution``.
    """
    dtype = jnp.dtype(preferred_element_type or x.dtype)
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if not has_known_shape(x, kernel):
        conv = Convolution(x.shape, kernel.shape, (), **geometry)
        return plain(x, kernel, conv=conv, wanted="output", dtype=dtype, precision=precision)
    conv = Convolution.of(x.shape, kernel.shape, **geometry)
    compute = plain if PLAIN.value or _placed(x) or _placed(kernel) else convolution_p.bind
    return compute(x, kernel, conv=conv, wanted="output", dtype=dtype, precision=precision)


def dots_saveable(primitive: Any, *avals: Any, **params: Any) -> bool:
    """``jax.checkpoint_policies.dots_saveable``, a policy of ``jax.checkpoint``, that keeps our convolutions, too.

    As JAX's own, it keeps no products in half precision whose sums are in float32.
    """
    return primitive is convolution_p or jax.checkpoint_policies.dots_saveable(primitive, *avals, **params)


def _placed(x: Array) -> bool:
    """Whether the type of x says where x lies: on a mesh with explicit axes, or inside ``jax.shard_map``."""
    kind = jax.typeof(x)
    return any(kind.sharding.spec) or bool(kind.mat.varying)


def plain(a: Array, b: Array, *, conv: Convolution, wanted: str, dtype: DTypeLike, precision: Any) -> Array:
    """As XLA does it."""
    return xla(conv, wanted, a, b, preferred_element_type=dtype, precision=precision)


def on_cpu(a: Array, b: Array, *, conv: Convolution, wanted: str, dtype: DTypeLike, precision: Any) -> Array:
    """As a CPU does it best. It has no products of half precision, and so none are asked for."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return fastest(conv, wanted, a.astype(wide), b.astype(wide)).astype(dtype)


@functools.partial(jax.jit, static_argnames=("conv", "wanted", "dtype", "precision"))
def _eager(a: Array, b: Array, **params: Any) -> Array:
    """Outside of ``jax.jit``: compiled once for all calls with the same shapes."""
    forms = dict(cpu=functools.partial(on_cpu, **params), default=functools.partial(plain, **params))
    return lax.platform_dependent(a, b, **forms)


def _abstract(a: Any, b: Any, *, conv: Convolution, wanted: str, dtype: DTypeLike, **_: Any) -> ShapedArray:
    return ShapedArray(getattr(conv, wanted), dtype)


def _transpose(index: int, cotangent: Array, a: Any, b: Any, *, wanted: str, **params: Any) -> Array:
    """The cotangent of operand ``index``: again one of the three arrays, from the other two."""
    missing, given = OPERANDS[wanted][index], OPERANDS[wanted][1 - index]
    undefined, other = (a, b)[index], (a, b)[1 - index]
    arrays = {wanted: cotangent.astype(other.dtype), given: other}
    params["dtype"] = undefined.aval.dtype
    return convolution_p.bind(*(arrays[name] for name in OPERANDS[missing]), wanted=missing, **params)


def _batch(arrays: Any, axes: Any, *, conv: Convolution, wanted: str, **params: Any) -> tuple[Array, int]:
    """A batch of images becomes part of the batch axis. For a batch of kernels, JAX's own rule holds."""
    names = OPERANDS[wanted]
    if wanted == "kernel" or axes[names.index("kernel")] is not None:
        return jax.vmap(functools.partial(plain, conv=conv, wanted=wanted, **params), axes)(*arrays), 0
    (size,) = (x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    merged = conv._replace(
        input=(size * conv.input[0], *conv.input[1:]), output=(size * conv.output[0], *conv.output[1:])
    )
    joined = [
        x if axis is None else jnp.moveaxis(x, axis, 0).reshape(getattr(merged, name))
        for name, x, axis in zip(names, arrays, axes, strict=True)
    ]
    y = convolution_p.bind(*joined, conv=merged, wanted=wanted, **params)
    return y.reshape(size, *getattr(conv, wanted)), 0


convolution_p = Primitive("flax_attn_convolution")
convolution_p.def_impl(_eager)
convolution_p.def_abstract_eval(_abstract)
ad.defbilinear(convolution_p, functools.partial(_transpose, 0), functools.partial(_transpose, 1))
batching.primitive_batchers[convolution_p] = _batch
mlir.register_lowering(convolution_p, mlir.lower_fun(plain, multiple_results=False))
mlir.register_lowering(convolution_p, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
