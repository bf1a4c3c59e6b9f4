"""The same steps by an optimizer of torch.optim and by a transformation of optax, on gradients drawn at random."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

NAMES = {
    "Adagrad": {"sum": "sum_of_squares"},
    "Adadelta": {"square_avg": "e_g", "acc_delta": "e_x"},
    "Adamax": {"exp_avg": "mu", "exp_inf": "nu"},
    "RMSprop": {"square_avg": "nu", "grad_avg": "mu", "momentum_buffer": "trace"},
    "SGD": {"momentum_buffer": "trace"},
}
"""PyTorch's names of the state of a parameter, and the fields of our state."""
ADAM = {"exp_avg": "mu", "exp_avg_sq": "nu", "max_exp_avg_sq": "nu_max", "mu_product": "mu_product"}
STEPS = 30
RATES = 0.02 * (1 + 0.7 * np.sin(np.arange(STEPS)))
RELATIVE = {"float64": 1e-12, "float32": 1e-4}


class Run(NamedTuple):
    """The parameters after each step, and the state at the end: field -> parameter -> array."""

    params: dict[str, np.ndarray]
    state: dict[str, dict[str, np.ndarray]]


def problem(dtypes=("float64", "float32"), steps=STEPS):
    """(parameters, gradients of each step). The gradients of one parameter are of very different sizes, some 0."""
    random = np.random.default_rng(0)
    params = {dtype: random.normal(size=(3, 7)).astype(dtype) for dtype in dtypes}
    size = 10 ** np.linspace(-7, 1, 21).reshape(3, 7)
    gradients = {dtype: random.normal(size=(steps, 3, 7)) * size for dtype in dtypes}
    for gradient in gradients.values():
        gradient[:, 2, 2] = 0
        gradient[::3, 2] = 0
    return params, {dtype: gradient.astype(dtype) for dtype, gradient in gradients.items()}


def tensor(x: Any) -> torch.Tensor:
    """``x`` as a tensor; bfloat16 too, which numpy does not have."""
    x = jnp.asarray(x)
    wide = x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
    return torch.tensor(np.asarray(wide)).to(getattr(torch, str(x.dtype)))


def array(x: torch.Tensor) -> np.ndarray:
    """``x`` as an array; of bfloat16 in float32."""
    x = x.detach()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy().copy()


def fields(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """PyTorch's names of the state of ``optimizer``, and the fields of our state."""
    return NAMES.get(type(optimizer).__name__, ADAM)


def torch_state(optimizer, params) -> dict[str, dict[str, np.ndarray]]:
    """The tensors of the state of ``optimizer``: field -> parameter -> array."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, param in params.items():
        for key, value in optimizer.state.get(param, {}).items():
            if key in fields(optimizer) and value is not None:
                found.setdefault(fields(optimizer)[key], {})[name] = array(value)
    return found


def torch_run(make, params, gradients, rates=None) -> Run:
    """The steps of ``make(parameters)``, with the learning rate of each step in ``rates``."""
    tensors = {name: torch.nn.Parameter(tensor(x)) for name, x in params.items()}
    optimizer = make(list(tensors.values()))
    return torch_steps(optimizer, tensors, gradients, rates)


def torch_steps(optimizer, tensors, gradients, rates=None) -> Run:
    """Steps of ``optimizer``, which may have made some already."""
    history: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    for step in range(len(next(iter(gradients.values())))):
        for name, x in tensors.items():
            x.grad = tensor(gradients[name][step])
        if rates is not None:
            optimizer.param_groups[0]["lr"] = float(rates[step])
        optimizer.step()
        for name, x in tensors.items():
            history[name].append(array(x))
    return Run({name: np.stack(xs) for name, xs in history.items()}, torch_state(optimizer, tensors))


def optax_steps(optimizer, params, gradients, state=None):
    """(parameters after each step, last state) of the transformation ``optimizer``."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params) if state is None else state
    history: dict[str, list[np.ndarray]] = {name: [] for name in params}
    for number in range(len(next(iter(gradients.values())))):
        params, state = step(params, state, {name: x[number] for name, x in gradients.items()})
        for name, x in params.items():
            history[name].append(np.asarray(x))
    return {name: np.stack(xs) for name, xs in history.items()}, state


def assert_same_run(history, state, expected: Run) -> None:
    """Each parameter after each step, and each tensor of the state, is equal to that of PyTorch but for rounding."""
    for name, x in expected.params.items():
        assert_relative(history[name], x, name)
    for field, tensors in expected.state.items():
        got = optax.tree.get(state, field)
        assert got is not None, f"the state has no {field}"
        for name, x in tensors.items():
            assert_relative(got if field == "mu_product" else got[name], x, f"{field} of {name}")


def assert_relative(got, expected, what: str) -> None:
    """|got - expected| is small compared with each expected number."""
    got = np.asarray(got)
    assert got.dtype == expected.dtype, f"{what}: {got.dtype} instead of {expected.dtype}"
    tolerance = RELATIVE[str(expected.dtype)]
    largest = float(np.max(np.abs(expected), initial=0.0))
    np.testing.assert_allclose(
        got, expected, rtol=tolerance, atol=1e-3 * tolerance * largest, err_msg=what, strict=True
    )
