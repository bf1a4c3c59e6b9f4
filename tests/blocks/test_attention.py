"""Attention under masks of two kinds at once, over appended keys, in dropout; NaN and refusals on both sides."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import plan
from flax_attn.blocks.attention import (
    MultiheadAttention,
    ScaledDotProductAttention,
    SimplifiedScaledDotProductAttention,
)
from tests.helpers.layer import check_refusal, normal
from tests.helpers.parity import randomise
from tests.helpers.tolerances import assert_close
from torch_ref.blocks import attention as twins

N, Q, K, HEADS, DIM = 2, 5, 7, 3, 12


def pair(ours, theirs, *inputs, **call):
    """Our variables with the random numbers that are put into ``theirs``."""
    theirs = theirs.double().eval()
    randomise(theirs, np.random.default_rng(0))
    return plan(ours, *inputs, **call).from_torch({k: v.clone() for k, v in theirs.state_dict().items()})


def apply(ours, variables, inputs, **call):
    """``ours.apply`` on numpy arrays."""
    inputs, call = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, (inputs, call))
    return ours.apply(variables, *inputs, **call)


def torch_call(module, *inputs, **call):
    """The call on numpy arrays; torch warns of a bool mask beside a floating point one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Support for mismatched")
        arrays = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in call.items()}
        return module(*map(torch.tensor, inputs), **arrays)


def tokens(batch_first=True, queries=Q, keys=K, dim=DIM):
    shapes = [(N, queries, dim), (N, keys, dim), (N, keys, dim)]
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    return arrays if batch_first else [x.swapaxes(0, 1) for x in arrays]


def mask(kind, *shape, seed=5):
    if kind == "float":
        return normal(*shape, seed=seed)
    chosen = np.random.default_rng(seed).random(shape) < 0.3
    chosen[..., 0] = False
    return np.where(chosen, -np.inf, 0.0) if kind == "infinite" else chosen


KINDS = [("bool", "float"), ("float", "bool"), ("infinite", "infinite"), ("bool", None), (None, "infinite")]


@pytest.mark.parametrize(("padding", "attn"), KINDS)
@pytest.mark.parametrize(("each", "extra"), [(False, False), (True, True)])
def test_masks_of_two_kinds(padding, attn, each, extra):
    arguments = dict(add_bias_kv=extra, add_zero_attn=extra, batch_first=not each)
    ours, theirs = (cls(DIM, HEADS, **arguments) for cls in (MultiheadAttention, torch.nn.MultiheadAttention))
    call = dict(average_attn_weights=not each)
    if padding:
        call["key_padding_mask"] = mask(padding, N, K)
    if attn:
        call["attn_mask"] = mask(attn, *([N * HEADS] if each else []), Q, K, seed=6)
    inputs = tokens(not each)
    variables = pair(ours, theirs, *inputs, **call)
    expected = torch_call(theirs, *inputs, **call)
    got = apply(ours, variables, inputs, **call)
    for g, e in zip(got, expected, strict=True):
        assert_close(g, e.detach())
    alone, none = apply(ours, variables, inputs, **call, need_weights=False)
    assert none is None
    np.testing.assert_array_equal(alone, got[0])


@pytest.mark.parametrize(("add_bias_kv", "add_zero_attn"), [(True, False), (False, True)])
def test_appended_keys_are_never_masked(add_bias_kv, add_zero_attn):
    arguments = dict(add_bias_kv=add_bias_kv, add_zero_attn=add_zero_attn)
    ours, theirs = (cls(DIM, HEADS, **arguments) for cls in (MultiheadAttention, torch.nn.MultiheadAttention))
    inputs, call = tokens(False), dict(attn_mask=np.ones((Q, K), bool))
    variables = pair(ours, theirs, *inputs, **call)
    weights = apply(ours, variables, inputs, **call)[1]
    np.testing.assert_array_equal(weights[..., -1], 1)
    assert_close(weights, torch_call(theirs, *inputs, **call)[1].detach())


def test_the_causal_hint_needs_its_mask_and_changes_nothing():
    ours, theirs = (cls(DIM, HEADS) for cls in (MultiheadAttention, torch.nn.MultiheadAttention))
    inputs = [tokens(False)[0]] * 3
    causal = np.triu(np.ones((Q, Q), bool), 1)
    variables = pair(ours, theirs, *inputs)
    for call in (dict(need_weights=True), dict(need_weights=False)):
        got = apply(ours, variables, inputs, **call, attn_mask=causal, is_causal=True)
        assert_close(got[0], torch_call(theirs, *inputs, **call, attn_mask=causal, is_causal=True)[0].detach())
    check_refusal(
        lambda: apply(ours, variables, inputs, is_causal=True),
        "expected attn_mask with is_causal",
        lambda: torch_call(theirs, *inputs, is_causal=True),
    )


def test_a_query_that_may_look_at_no_key_is_nan_and_no_other():
    ours, theirs = (cls(DIM, HEADS, batch_first=True) for cls in (MultiheadAttention, torch.nn.MultiheadAttention))
    inputs, padding, attn = tokens(), np.zeros((N, K), bool), np.zeros((Q, K), bool)
    padding[1], attn[2] = True, True
    call = dict(key_padding_mask=padding, attn_mask=attn)
    variables = pair(ours, theirs, *inputs, **call)
    got, expected = apply(ours, variables, inputs, **call), torch_call(theirs, *inputs, **call)
    for g, e in zip(got, expected, strict=True):
        assert_close(g, e.detach())
    empty = np.array([[i == 1 or j == 2 for j in range(Q)] for i in range(N)])
    np.testing.assert_array_equal(np.isnan(got[0]), np.broadcast_to(empty[..., None], (N, Q, DIM)))
    without = apply(ours, variables, inputs, **call, need_weights=False)[0]
    np.testing.assert_array_equal(np.isnan(without), np.isnan(got[0]))


@pytest.mark.parametrize("cls", [ScaledDotProductAttention, SimplifiedScaledDotProductAttention])
def test_scaled_dot_product_attention_is_nan_where_all_is_masked(cls):
    sizes = (DIM, 4, 5, HEADS) if cls is ScaledDotProductAttention else (DIM, HEADS)
    ours, theirs = cls(*sizes), getattr(twins, cls.__name__)(*sizes)
    empty = np.zeros((N, HEADS, Q, K), bool)
    empty[1, :, 3] = True
    inputs, call = tokens(), dict(attention_mask=empty)
    variables = pair(ours, theirs, *inputs, **call)
    got = apply(ours, variables, inputs, **call)
    assert_close(got, torch_call(theirs, *inputs, **call).detach())
    assert np.isnan(got[1, 3]).all()
    assert np.isnan(got).sum() == DIM


def test_scaled_dot_product_attention_is_multihead_attention_where_both_can_be():
    """Surveys' self-attention: 64 channels for each of 8 heads are here 4 for each of 3."""
    theirs = torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True).double()
    randomise(theirs, np.random.default_rng(0))
    state = {f"fc_o.{key}": value for key, value in theirs.out_proj.state_dict().items()}
    for leaf in ("weight", "bias"):
        packed = theirs.state_dict()[f"in_proj_{leaf}"]
        state |= {f"fc_{name}.{leaf}": part for name, part in zip("qkv", packed.chunk(3), strict=True)}
    ours = ScaledDotProductAttention(DIM, DIM // HEADS, DIM // HEADS, HEADS)
    got = apply(ours, plan(ours, *tokens()).from_torch(state), tokens())
    assert_close(got, torch_call(theirs, *tokens())[0].detach())


def test_attention_dropout_acts_on_the_weights_in_training():
    """What is dropped is zero, what is kept is scaled, and the output is what the returned weights gather."""
    ours = MultiheadAttention(DIM, HEADS, dropout=0.4, batch_first=True)
    variables = pair(ours, torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True), *tokens())
    call = dict(average_attn_weights=False, rngs={"dropout": jax.random.key(0)})
    fresh = np.asarray(apply(ours, variables, tokens(), **call)[1])
    out, weights = apply(ours, variables, tokens(), **call, train=True)
    kept = np.asarray(weights) != 0
    assert 0.45 < kept.mean() < 0.75
    assert_close(weights, np.where(kept, fresh / 0.6, 0))
    params = variables["params"]
    value = tokens()[2] @ params["in_proj_weight"][-DIM:].T + params["in_proj_bias"][-DIM:]
    gathered = np.einsum("nhqk,nkhd->nqhd", np.asarray(weights), np.reshape(value, (N, K, HEADS, -1))).reshape(
        N, Q, DIM
    )
    assert_close(out, gathered @ params["out_proj"]["kernel"] + params["out_proj"]["bias"])
    assert_close(apply(ours, variables, tokens(), **call)[1], fresh)


def test_probability_one_drops_every_weight():
    ours = MultiheadAttention(DIM, HEADS, dropout=1.0, batch_first=True)
    variables = pair(ours, torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True), *tokens())
    out, weights = apply(ours, variables, tokens(), train=True, rngs={"dropout": jax.random.key(0)})
    assert not np.any(weights)
    assert_close(out, np.broadcast_to(variables["params"]["out_proj"]["bias"], out.shape))


@pytest.mark.parametrize(("dim", "heads"), [(12, 0), (0, 1), (-4, 2)])
def test_heads_must_divide_the_width(dim, heads):
    check_refusal(
        lambda: MultiheadAttention(dim, heads),
        "MultiheadAttention: expected num_heads to divide embed_dim",
        lambda: torch.nn.MultiheadAttention(dim, heads),
    )


SHAPES = [(N, Q, DIM), (N, K, DIM), (N, K, DIM)]
INPUTS = [
    ([(N, Q, 8), *SHAPES[1:]], {}, "query"),
    ([SHAPES[0], (N, K, 8), (N, K, DIM)], {}, "key"),
    ([SHAPES[0], (N, K, DIM), (N, K, 8)], {}, "value"),
    ([SHAPES[0], (N, K, DIM), (N, 4, DIM)], {}, "one batch size and a value for each key"),
    ([SHAPES[0], (3, K, DIM), (3, K, DIM)], {}, "one batch size and a value for each key"),
    ([(N, Q, 2, DIM), *SHAPES[1:]], {}, "query of rank 3"),
    (SHAPES, dict(key_padding_mask=((N, Q), bool)), "key_padding_mask of shape"),
    (SHAPES, dict(attn_mask=((HEADS, Q, K), bool)), "attn_mask of shape"),
    (SHAPES, dict(attn_mask=((N, HEADS, Q, K), bool)), "attn_mask of shape"),
    (SHAPES, dict(attn_mask=((Q, K), int)), "attn_mask of bool or floating"),
]


@pytest.mark.usefixtures("no_annotation_checks")
@pytest.mark.parametrize(("shapes", "masks", "match"), INPUTS)
def test_multihead_attention_refuses_inputs_that_do_not_fit(shapes, masks, match):
    inputs = [np.zeros(shape) for shape in shapes]
    call = {name: np.zeros(shape, dtype) for name, (shape, dtype) in masks.items()}
    ours, theirs = (cls(DIM, HEADS, batch_first=True) for cls in (MultiheadAttention, torch.nn.MultiheadAttention))
    check_refusal(
        lambda: jax.eval_shape(lambda: ours.init(jax.random.key(0), *inputs, **call)),
        f"^MultiheadAttention: expected {match}",
        lambda: torch_call(theirs.double(), *inputs, **call),
    )


SCALED = [
    ([(N, Q, 8), *SHAPES[1:]], {}),
    ([SHAPES[0], (N, K, DIM), (N, 4, DIM)], {}),
    ([SHAPES[0], (3, K, DIM), (3, K, DIM)], {}),
    (SHAPES, dict(attention_mask=((N, HEADS, K, Q), bool))),
    (SHAPES, dict(attention_mask=((N, HEADS, Q, K), float))),
    (SHAPES, dict(attention_weights=((N, HEADS, K, Q), float))),
]


@pytest.mark.usefixtures("no_annotation_checks")
@pytest.mark.parametrize("cls", [ScaledDotProductAttention, SimplifiedScaledDotProductAttention])
@pytest.mark.parametrize(("shapes", "extra"), SCALED)
def test_scaled_dot_product_attention_refuses_inputs_that_do_not_fit(cls, shapes, extra):
    sizes = (DIM, 4, 5, HEADS) if cls is ScaledDotProductAttention else (DIM, HEADS)
    ours, theirs = cls(*sizes), getattr(twins, cls.__name__)(*sizes)
    inputs = [np.zeros(shape) for shape in shapes]
    call = {name: np.zeros(shape, dtype) for name, (shape, dtype) in extra.items()}
    check_refusal(
        lambda: jax.eval_shape(lambda: ours.init(jax.random.key(0), *inputs, **call)),
        "expected",
        lambda: torch_call(theirs.double(), *inputs, **call),
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: ScaledDotProductAttention(0, 4, 4, 2), None),
        (lambda: ScaledDotProductAttention(12, 4, 4, 0), None),
        (lambda: SimplifiedScaledDotProductAttention(12, 5), lambda: twins.SimplifiedScaledDotProductAttention(12, 5)),
        (lambda: SimplifiedScaledDotProductAttention(12, 0), None),
    ],
)
def test_scaled_dot_product_attention_refuses_sizes(ours, theirs):
    check_refusal(ours, "expected")
    if theirs is not None:
        inputs = [torch.zeros(N, K, 12)] * 3
        with pytest.raises(RuntimeError):
            theirs()(*inputs)
