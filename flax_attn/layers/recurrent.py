"""``torch.nn.LSTM``, ``GRU`` and the cells. Traps: the order of the gates (LSTM: input, forget, cell, output; GRU:
reset, update, new), the two biases, and GRU's reset gate, which acts after the multiplication with the weights."""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from flax_attn.layers import init
from flax_attn.layers.activation import relu, sigmoid, tanh
from flax_attn.layers.dropout import Dropout
from flax_attn.layers.module import Module, accumulator, einsum, require

State = tuple[Array, ...]
"""The hidden state h, and with LSTM the cell state c after it."""


class Weights(NamedTuple):
    """The leaves of one layer in one direction, as PyTorch has them; the projection is that of LSTM."""

    ih: Array
    hh: Array
    bias_ih: Array | None
    bias_hh: Array | None
    hr: Array | None = None

    def of_input(self, x: Array) -> Array:
        """What x adds to the gates, for all steps at once."""
        return _affine(x, self.ih, self.bias_ih)

    def of_hidden(self, h: Array) -> Array:
        """What the hidden state adds to the gates."""
        return _affine(h, self.hh, self.bias_hh)


Step = Callable[[Array, State, Weights], State]


def _affine(x: Array, weight: Array, bias: Array | None = None) -> Array:
    sums = einsum("...i,gi->...g", x.astype(weight.dtype), weight, wide=True)
    return sums if bias is None else sums + bias


def lstm_step(inputs: Array, state: State, weights: Weights) -> State:
    """(h, c) after one step, from what the input adds to the gates (n, 4*hidden)."""
    h, c = state
    i, f, g, o = jnp.split(inputs + weights.of_hidden(h), 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    return (h if weights.hr is None else _affine(h, weights.hr)), c


def gru_step(inputs: Array, state: State, weights: Weights) -> State:
    """(h,) after one step, from what the input adds to the gates (n, 3*hidden)."""
    (h,) = state
    (r_x, z_x, n_x), (r_h, z_h, n_h) = (jnp.split(part, 3, -1) for part in (inputs, weights.of_hidden(h)))
    r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
    return ((1 - z) * tanh(n_x + r * n_h) + z * h,)


class _Recurrent(Module):
    input_size: int
    hidden_size: int

    gates: ClassVar[int]
    states: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("input_size", "hidden_size"):
            count = getattr(self, name)
            require(count >= 1, f"{type(self).__name__}: expected {name} >= 1, got {count}")

    def weights(self, inputs: int, bias: bool, projection: int = 0, suffix: str = "") -> Weights:
        """The leaves whose names end in ``suffix``, for an input of width ``inputs``."""
        hidden, rows = self.hidden_size, self.gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs), "weight_hh": (rows, projection or hidden)}
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
        shapes |= {"weight_hr": (projection, hidden)} if projection else {}
        start = init.fan_in_uniform(hidden)
        leaves = {name: self.parameter(name + suffix, start, shape) for name, shape in shapes.items()}
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        return Weights._make(leaves.get(name) for name in names)

    def check_state(self, hx: Array | Sequence[Array] | None, shapes: Sequence[tuple[int, ...]]) -> list[Array] | None:
        """The given states as a list; they must have these shapes."""
        if hx is None:
            return None
        given = [jnp.asarray(state) for state in (hx if self.states > 1 else [hx])]
        expected, got = [*map(tuple, shapes)], [state.shape for state in given]
        require(got == expected, f"{type(self).__name__}: expected states hx of shapes {expected}, got {got}")
        return given


class _Cell(_Recurrent):
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array, hx: Array | Sequence[Array] | None = None, train: bool = False) -> Array | State:
        self.check_channels(x, self.input_size, (1, 2))
        shape = (*x.shape[:-1], self.hidden_size)
        given = self.check_state(hx, [shape] * self.states)
        x = jnp.asarray(x)
        state = [jnp.zeros(shape, x.dtype)] * self.states if given is None else given
        x, *arrays = self.promote(x, *state, *self.weights(self.input_size, self.bias))
        state, leaves = arrays[: self.states], arrays[self.states :]
        wide, weights = accumulator(x.dtype), Weights._make(leaves)
        new = self.step(weights.of_input(x), tuple(part.astype(wide) for part in state), weights)
        new = tuple(part.astype(x.dtype) for part in new)
        return new if self.states > 1 else new[0]

    def step(self, inputs: Array, state: State, weights: Weights) -> State:
        """The next state."""
        raise NotImplementedError


class LSTMCell(_Cell):
    """``torch.nn.LSTMCell``: one step from x (n, input_size) or (input_size,) and ``hx = (h, c)`` to the new (h, c).

    Leaves, as in PyTorch: ``weight_ih`` (4*hidden_size, input_size), ``weight_hh``, ``bias_ih`` and ``bias_hh``.
    Without ``hx``, the states are zeros. Raises ValueError for a state of another shape.
    """

    gates = 4
    states = 2

    def step(self, inputs: Array, state: State, weights: Weights) -> State:
        return lstm_step(inputs, state, weights)


class GRUCell(_Cell):
    """``torch.nn.GRUCell``: one step from x (n, input_size) or (input_size,) and the state ``hx`` to the new state.

    Leaves, as in PyTorch: ``weight_ih`` (3*hidden_size, input_size), ``weight_hh``, ``bias_ih`` and ``bias_hh``.
    Without ``hx``, the state is zeros. Raises ValueError for a state of another shape.
    """

    gates = 3

    def step(self, inputs: Array, state: State, weights: Weights) -> State:
        return gru_step(inputs, state, weights)


class RNNCell(_Cell):
    """``torch.nn.RNNCell``: one step from x (n, input_size) or (input_size,) and the state ``hx`` to the new state.

    Args:
        nonlinearity: "tanh" or "relu".

    Leaves, as in PyTorch: ``weight_ih`` (hidden_size, input_size), ``weight_hh``, ``bias_ih`` and ``bias_hh``.
    Without ``hx``, the state is zeros. Raises ValueError for a state of another shape.
    """

    nonlinearity: str = "tanh"

    gates = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.nonlinearity in ("tanh", "relu")
        require(known, f"RNNCell: expected nonlinearity 'tanh' or 'relu', got {self.nonlinearity!r}")

    def step(self, inputs: Array, state: State, weights: Weights) -> State:
        sums = inputs + weights.of_hidden(state[0])
        return (tanh(sums) if self.nonlinearity == "tanh" else relu(sums),)


class _Layers(_Recurrent):
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        who = type(self).__name__
        require(self.num_layers >= 1, f"{who}: expected num_layers >= 1, got {self.num_layers}")
        require(0 <= self.dropout <= 1, f"{who}: expected a probability dropout in [0, 1], got {self.dropout}")

    @property
    def projection(self) -> int:
        """The width of the projected hidden state; 0 for none."""
        return 0

    @nn.compact
    def __call__(
        self, x: Array, hx: Array | Sequence[Array] | None = None, train: bool = False
    ) -> tuple[Array, Array | State]:
        self.check_channels(x, self.input_size, (2, 3))
        (x,) = self.promote(x)
        single, swapped = x.ndim == 2, x.ndim == 3 and self.batch_first
        x = x[:, None] if single else x.swapaxes(0, 1) if swapped else x
        outputs, new = self.all_layers(x, self.initial_state(x, hx, single), train)
        last = outputs[:, 0] if single else outputs.swapaxes(0, 1) if swapped else outputs
        final = tuple(part[:, 0] if single else part for part in new)
        return last, (final if self.states > 1 else final[0])

    def initial_state(self, x: Array, hx: Array | Sequence[Array] | None, single: bool) -> list[Array]:
        """Each state (num_layers * directions, n, width) at the start, for x (l, n, c)."""
        widths = [self.projection or self.hidden_size, self.hidden_size][: self.states]
        runs = self.num_layers * (1 + self.bidirectional)
        batch = () if single else (x.shape[1],)
        given = self.check_state(hx, [(runs, *batch, width) for width in widths])
        if given is None:
            return [jnp.zeros((runs, x.shape[1], width), x.dtype) for width in widths]
        return [state[:, None] if single else state for state in given]

    def all_layers(self, x: Array, state: list[Array], train: bool) -> tuple[Array, State]:
        """The outputs (l, n, width) of the last layer, and each state after the last step, stacked over all runs."""
        finals = []
        for layer in range(self.num_layers):
            if layer > 0:
                x = Dropout(self.dropout)(x, train=train)
            outputs = []
            for direction in range(1 + self.bidirectional):
                run = layer * (1 + self.bidirectional) + direction
                suffix = f"_l{layer}" + "_reverse" * direction
                output, final = self.one_layer(x, [part[run] for part in state], suffix, reverse=direction == 1)
                outputs.append(output)
                finals.append(final)
            x = jnp.concatenate(outputs, -1)
        return x, tuple(jnp.stack(parts) for parts in zip(*finals, strict=True))

    def one_layer(self, x: Array, state: list[Array], suffix: str, reverse: bool) -> tuple[Array, State]:
        """The hidden states of all steps, and the state after the last."""
        raw = self.weights(x.shape[-1], self.bias, self.projection, suffix)
        x, *leaves = self.promote(x, *raw)
        weights, wide = Weights._make(leaves), accumulator(x.dtype)

        def step(state: State, inputs: Array) -> tuple[State, Array]:
            state = self.step(inputs, state, weights)
            return state, state[0]

        start = tuple(part.astype(x.dtype).astype(wide) for part in state)
        final, outputs = lax.scan(step, start, weights.of_input(x), reverse=reverse)
        return outputs.astype(x.dtype), tuple(part.astype(x.dtype) for part in final)

    def step(self, inputs: Array, state: State, weights: Weights) -> State:
        """The next state."""
        raise NotImplementedError


class LSTM(_Layers):
    """``torch.nn.LSTM``: ``num_layers`` layers over x (l, n, input_size), or (n, l, input_size) with ``batch_first``.

    Args:
        dropout: the probability with which each output of every layer but the last is dropped, with ``train=True``.
        proj_size: the width to which the hidden state h is projected; 0 for no projection.

    Returns:
        (output, (h, c)), as in PyTorch: the hidden states of the last layer (l, n, directions*hidden_size), and the
        states (num_layers*directions, n, hidden_size) after the last step. ``hx = (h, c)`` gives the states at the
        start; without it they are zeros. A single sequence (l, input_size) is taken too.

    Leaves, as in PyTorch: ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``, ``weight_ih_l0_reverse``,
    ... Raises ValueError for a state of another shape.
    """

    proj_size: int = 0

    gates = 4
    states = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = 0 <= self.proj_size < self.hidden_size
        require(fits, f"LSTM: expected 0 <= proj_size < hidden_size={self.hidden_size}, got {self.proj_size}")

    @property
    def projection(self) -> int:
        return self.proj_size

    def step(self, inputs: Array, state: State, weights: Weights) -> State:
        return lstm_step(inputs, state, weights)


class GRU(_Layers):
    """``torch.nn.GRU``: ``num_layers`` layers over x (l, n, input_size), or (n, l, input_size) with ``batch_first``.

    Args:
        dropout: the probability with which each output of every layer but the last is dropped, with ``train=True``.

    Returns:
        (output, h), as in PyTorch: the hidden states of the last layer (l, n, directions*hidden_size), and the state
        (num_layers*directions, n, hidden_size) after the last step. ``hx = h`` gives the state at the start; without
        it, it is zeros. A single sequence (l, input_size) is taken too.

    Leaves: as those of ``LSTM``, with 3 gates. Raises ValueError for a state of another shape.
    """

    gates = 3

    def step(self, inputs: Array, state: State, weights: Weights) -> State:
        return gru_step(inputs, state, weights)
