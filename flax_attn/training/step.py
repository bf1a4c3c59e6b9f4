"""One compiled training step for every module: statistics, dropout, accumulation, clipping, averages and precision."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array

from flax_attn.layers.module import require
from flax_attn.training.calling import STREAMS, Network, only_x
from flax_attn.training.clipping import clip_grad_norm, clip_grad_value, grad_norm, is_finite
from flax_attn.training.ema import update_ema
from flax_attn.training.freezing import frozen_leaves
from flax_attn.training.state import TrainState, require_optimizer

Loss = Callable[[Any, Any], Any]
"""Gives the loss for outputs and batch: a scalar, or a scalar and a dict of further metrics."""
OURS = ("loss", "grad_norm", "skipped")


def train_step(
    module: nn.Module,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    inputs: Callable[[Any], Any] = only_x,
    accumulate: int = 1,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    ema_decay: float | None = None,
    ema_buffers: bool = False,
    frozen: Sequence[str] = (),
    dtype: DTypeLike | None = None,
    loss_scale: float = 1.0,
    skip_nonfinite: bool = False,
    streams: Sequence[str] = STREAMS,
    donate: bool = True,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]:
    """A compiled function that takes a state and a batch, and returns the next state and the metrics.

    The metrics are "loss", "grad_norm" before clipping, and those of ``loss``. The module is called with
    ``train=True``. In step n its random stream "dropout" draws from ``stream_key(state.rng, n, "dropout")``.

    Args:
        module: a module of this package, or a linen module whose call takes ``train``.
        loss: gives the loss for outputs and batch, or the loss and a dict of further metrics.
        optimizer: the optax transformation with which the state was created.
        inputs: gives the arguments of the module for a batch: a tuple, or a dict of keywords.
        accumulate: how many parts of equal size a batch is split into, along the first axis of each of its arrays. Each
            part runs by itself and moves the statistics. Gradients and metrics are the means over the parts.
        clip_norm: the ``max_norm`` of ``clip_grad_norm``.
        clip_value: the ``clip_value`` of ``clip_grad_value``.
        ema_decay: the ``decay`` of ``update_ema``, for a state with an average.
        ema_buffers: the ``buffers`` of ``update_ema``.
        frozen: the paths that stay as they are, as in ``freeze``; their modules run in eval mode. An optimizer of
            ``freeze`` also saves their state.
        dtype: the dtype to compute in, such as ``jnp.bfloat16``. Parameters, gradients, statistics and the loss keep
            their own.
        loss_scale: what the loss is multiplied with before, and the gradients divided by after, for float16.
        skip_nonfinite: whether a step whose loss or gradients are not finite changes nothing but the number of steps.
            The metric "skipped" is then 1, and else 0.
        streams: the names of the random streams that the module draws from.
        donate: whether the step reuses the memory of the state that it is given. That state is then gone: JAX says that
            its buffers are deleted if it is used again. What ``TrainState.create`` was given stays.

    Raises:
        ValueError: for an argument out of range. The first call raises it for a state or a batch that does not fit.
    """
    require_optimizer("train_step", optimizer)
    network = Network(module, inputs, dtype, frozen=frozen, streams=streams)
    step = _Step(
        network=network,
        loss=loss,
        optimizer=optax.with_extra_args_support(optimizer),
        accumulate=accumulate,
        clip_norm=clip_norm,
        clip_value=clip_value,
        ema_decay=ema_decay,
        ema_buffers=ema_buffers,
        loss_scale=loss_scale,
        skip_nonfinite=skip_nonfinite,
    )
    return jax.jit(step.__call__, donate_argnums=(0,) if donate else (), keep_unused=True)


def eval_step(
    module: nn.Module,
    *,
    inputs: Callable[[Any], Any] = only_x,
    dtype: DTypeLike | None = None,
    ema: bool = False,
    streams: Sequence[str] = STREAMS,
) -> Callable[[TrainState, Any], Any]:
    """A compiled function that takes a state and a batch, and returns the outputs of the module in eval mode.

    Args:
        module: as in ``train_step``.
        inputs: as in ``train_step``.
        dtype: as in ``train_step``.
        ema: whether to use the averaged variables of the state.
        streams: as in ``train_step``, for a module that draws in eval mode too. Recurrent attention does.
    """
    network = Network(module, inputs, dtype, streams=streams)

    def step(state: TrainState, batch: Any) -> Any:
        variables = state.ema_variables if ema else state.variables
        return network.evaluate(variables, batch, network.keys(state.rng, state.step))

    return jax.jit(step)


@dataclasses.dataclass(frozen=True)
class _Step:
    """What ``train_step`` compiles."""

    network: Network
    loss: Loss
    optimizer: optax.GradientTransformationExtraArgs
    accumulate: int
    clip_norm: float | None
    clip_value: float | None
    ema_decay: float | None
    ema_buffers: bool
    loss_scale: float
    skip_nonfinite: bool

    def __post_init__(self) -> None:
        count, decay = self.accumulate, self.ema_decay
        whole = isinstance(count, int) and count >= 1
        require(whole, f"train_step: expected accumulate to be an integer >= 1, got {count}")
        require(decay is None or 0 <= decay <= 1, f"train_step: expected ema_decay in [0, 1], got {decay}")
        require(self.loss_scale > 0, f"train_step: expected a positive loss_scale, got {self.loss_scale}")
        for name in ("clip_norm", "clip_value"):
            limit = getattr(self, name)
            require(limit is None or limit > 0, f"train_step: expected a positive {name}, got {limit}")
        both = self.clip_norm is not None and self.clip_value is not None
        require(not both, "train_step: expected clip_norm or clip_value, got both; leave out one")

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        _check(state, self.optimizer, averages=self.ema_decay is not None)
        frozen = frozen_leaves(state.params, self.network.frozen, state.batch_stats)
        grads, batch_stats, metrics = self.gradients(state, batch, frozen)
        metrics["grad_norm"] = norm = grad_norm(grads)
        if self.clip_norm is not None:
            grads, _ = clip_grad_norm(grads, self.clip_norm)
        if self.clip_value is not None:
            grads = clip_grad_value(grads, self.clip_value)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params, value=metrics["loss"])
        moved = optax.apply_updates(state.params, updates)
        params = jax.tree.map(lambda stays, old, new: old if stays else new, frozen, state.params, moved)
        new = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
        if self.ema_decay is not None:
            new = new.replace(ema=update_ema(state.ema, new.variables, self.ema_decay, buffers=self.ema_buffers))
        if self.skip_nonfinite:
            fine = is_finite(metrics["loss"], norm)
            ema = state.ema and {"batch_stats": state.batch_stats, **state.ema}
            kept = state.replace(step=new.step, rng=None, ema=ema)
            new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new.replace(rng=None), kept).replace(rng=state.rng)
            metrics["skipped"] = 1 - fine.astype(jnp.int32)
        return new, metrics

    def gradients(self, state: TrainState, batch: Any, frozen: Any) -> tuple[Any, Any, dict[str, Array]]:
        """The gradients, the new statistics and the metrics of a batch, part by part."""
        keys = self.network.keys(state.rng, state.step)
        differentiate = jax.grad(self.objective, has_aux=True)
        if self.accumulate == 1:
            grads, (stats, metrics) = differentiate(state.params, state.batch_stats, batch, keys, frozen)
            return self.unscaled(grads), stats, metrics

        def add(carry: Any, part: Any) -> tuple[Any, Any]:
            number, small = part
            total, stats = carry
            own = {name: jax.random.fold_in(key, number) for name, key in keys.items()}
            grads, (stats, metrics) = differentiate(state.params, stats, small, own, frozen)
            return (jax.tree.map(lambda a, b: a + b / self.accumulate, total, self.unscaled(grads)), stats), metrics

        start = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats)
        parts = (jnp.arange(self.accumulate), _split(batch, self.accumulate))
        (grads, stats), metrics = jax.lax.scan(add, start, parts)
        return grads, stats, jax.tree.map(lambda each: each.mean(0), metrics)

    def objective(self, params: Any, batch_stats: Any, batch: Any, keys: Any, frozen: Any) -> tuple[Array, Any]:
        """The scaled loss, with the new statistics and the metrics."""
        held = jax.tree.map(lambda stays, leaf: jax.lax.stop_gradient(leaf) if stays else leaf, frozen, params)
        outputs, stats = self.network.train(held, batch_stats, batch, keys)
        value, metrics = _checked_loss(self.loss(outputs, batch))
        return value * self.loss_scale, (stats, {"loss": value, **metrics})

    def unscaled(self, grads: Any) -> Any:
        """The gradients of the loss itself."""
        return grads if self.loss_scale == 1 else jax.tree.map(lambda grad: grad / self.loss_scale, grads)


def _checked_loss(result: Any) -> tuple[Any, Mapping[str, Any]]:
    """The loss and its metrics, if they are a number and a dict."""
    parts = result if isinstance(result, tuple) else (result, {})
    kinds = ", ".join(type(part).__name__ for part in parts)
    fits = len(parts) == 2 and (hasattr(parts[0], "dtype") or isinstance(parts[0], float | int))
    require(
        fits and isinstance(parts[1], Mapping),
        f"loss: expected a number and a dict of metrics, which may be left out, got {kinds}; sum the losses of a dict",
    )
    value, metrics = parts
    scalar = jnp.shape(value) == () and jnp.issubdtype(jnp.result_type(value), jnp.floating)
    got = f"{jnp.result_type(value)} {jnp.shape(value)}"
    require(scalar, f"loss: expected one floating point number, got {got}; take the mean over the batch")
    taken = sorted(set(metrics) & set(OURS))
    require(not taken, f"loss: expected other names for its metrics than {', '.join(OURS)}, got {', '.join(taken)}")
    return value, metrics


def _check(state: TrainState, optimizer: optax.GradientTransformation, averages: bool) -> None:
    """ValueError if the state is not one for this step."""
    expected: Any = jax.tree.structure(jax.eval_shape(optimizer.init, state.params))
    require(
        expected == jax.tree.structure(state.opt_state),
        "train_step: expected an opt_state of its optimizer, got one of another form; "
        "create the state with TrainState.create(variables, optimizer)",
    )
    has_average = state.ema is not None
    missing = "train_step: expected a state with an average, got ema=None; create the state with ema=True"
    require(has_average or not averages, missing)
    require(averages or not has_average, "train_step: expected ema_decay for a state with an average, got None")


def _split(batch: Any, count: int) -> Any:
    """The arrays of a batch, (n, ...), as (count, n / count, ...)."""

    def split(path: Any, leaf: Any) -> Array:
        shape = jnp.shape(leaf)
        require(
            bool(shape) and shape[0] % count == 0,
            f"batch{jax.tree_util.keystr(path)}: expected a first axis that {count} divides, for accumulate={count}, "
            f"got shape {shape}",
        )
        return jnp.reshape(jnp.asarray(leaf), (count, shape[0] // count, *shape[1:]))

    return jax.tree_util.tree_map_with_path(split, batch)
