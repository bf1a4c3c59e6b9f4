"""MultiheadAttention and the DETR layers against torch.nn's own modules; masks, NaN and refusals on both sides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_attn as fa
from convert import from_torch
from tests.helpers.tolerances import assert_close

torch = pytest.importorskip("torch")

N, Q, K, E, H = 2, 4, 5, 12, 3
BOOL = dict(
    key_padding_mask=np.array([[False] * K, [False, False, True, False, True]]),
    attn_mask=np.triu(np.ones((Q, K), bool), 2),
)
FLOAT = {name: np.where(mask, -1.5, 0.25) for name, mask in BOOL.items()}
HEADS = dict(attn_mask=np.random.default_rng(1).random((N * H, Q, K)) < 0.3)


def both(arguments, inputs, **call):
    """Output and weights of the Flax module and of torch.nn's, with the same random parameters, batch first."""
    theirs = torch.nn.MultiheadAttention(**arguments, batch_first=True, dtype=torch.float64)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.5)
    module = fa.MultiheadAttention(**arguments, batch_first=True)
    arrays = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in call.items()}
    variables = from_torch(module, theirs.state_dict(), *map(jnp.asarray, inputs))
    ours = module.apply(variables, *map(jnp.asarray, inputs), **arrays)
    tensors = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in call.items()}
    return ours, theirs(*map(torch.tensor, inputs), **tensors)


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("extra", [{}, dict(add_bias_kv=True), dict(add_zero_attn=True), dict(kdim=7, vdim=8)])
@pytest.mark.parametrize("masks", [{}, BOOL, FLOAT, HEADS], ids=["none", "bool", "float", "per-head"])
@pytest.mark.parametrize("average", [True, False])
def test_multihead_attention_is_torchs(extra, masks, average):
    arguments = dict(embed_dim=E, num_heads=H, **extra)
    inputs = draw(N, Q, E), draw(N, K, extra.get("kdim", E)), draw(N, K, extra.get("vdim", E))
    ours, theirs = both(arguments, inputs, **masks, average_attn_weights=average)
    for got, expected in zip(ours, theirs, strict=True):
        assert_close(got, expected.detach())


def test_weights_are_none_when_not_needed():
    ours, theirs = both(dict(embed_dim=E, num_heads=H), [draw(N, Q, E)] * 3, need_weights=False)
    assert ours[1] is None
    assert theirs[1] is None
    assert_close(ours[0], theirs[0].detach())


def test_query_that_may_look_at_no_key_is_nan_as_in_pytorch():
    mask = np.zeros((Q, Q), bool)
    mask[1] = True
    ours, theirs = both(dict(embed_dim=E, num_heads=H), [draw(N, Q, E)] * 3, attn_mask=mask)
    assert np.isnan(ours[0][:, 1]).all()
    assert_close(ours[0], theirs[0].detach())


@pytest.mark.parametrize("normalize_before", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_layers_without_position_are_torchs_own(normalize_before, activation):
    common = dict(batch_first=True, norm_first=normalize_before, activation=activation, dtype=torch.float64)
    src, memory = draw(N, Q, E), draw(N, K, E)
    arguments = (E, H, 10, 0.0, activation, normalize_before)
    encoder = torch.nn.TransformerEncoderLayer(E, H, 10, 0.0, **common)
    ours = fa.TransformerEncoderLayer(*arguments)
    variables = from_torch(ours, encoder.state_dict(), jnp.asarray(src))
    assert_close(ours.apply(variables, jnp.asarray(src)), encoder(torch.tensor(src)).detach())
    decoder = torch.nn.TransformerDecoderLayer(E, H, 10, 0.0, **common)
    ours = fa.TransformerDecoderLayer(*arguments)
    variables = from_torch(ours, decoder.state_dict(), jnp.asarray(src), jnp.asarray(memory))
    expected = decoder(torch.tensor(src), torch.tensor(memory)).detach()
    assert_close(ours.apply(variables, jnp.asarray(src), jnp.asarray(memory)), expected)


def test_an_image_that_is_all_padding_is_nan_as_in_detr():
    """Upstream asks for the weights it throws away; without, torch's fused attention gives 0 there."""
    from torch_ref.blocks.transformer import Transformer

    arguments = (E, H, 1, 2, 10, 0.0)
    inputs = draw(N, 3, 4, E), np.arange(N)[:, None, None] * np.ones((N, 3, 4)) > 0, draw(5, E), draw(N, 3, 4, E)
    theirs = Transformer(*arguments).double().eval()
    ours = fa.Transformer(*arguments)
    arrays = list(map(jnp.asarray, inputs))
    found, memory = ours.apply(from_torch(ours, theirs.state_dict(), *arrays), *arrays)
    src, mask, query_embed, pos = map(torch.tensor, inputs)
    expected, image = theirs(src.movedim(-1, 1), mask, query_embed, pos.movedim(-1, 1))
    assert_close(found, expected.detach())
    assert_close(memory, image.detach().movedim(1, -1))
    np.testing.assert_array_equal(np.isnan(found).all((0, 2, 3)), [False, True])


def test_sine_embedding_counts_rows_first_and_ends_at_the_scale():
    mask = jnp.zeros((1, 4, 6), bool)
    embedding = fa.PositionEmbeddingSine(4, normalize=True).apply({}, jnp.zeros((1, 4, 6, 1)), mask)
    row = np.float32(2 * np.pi) * (np.arange(1, 5, dtype=np.float32) / np.float32(4 + 1e-6))
    np.testing.assert_allclose(embedding[0, :, 0, 0], np.float32(np.sin(row.astype(float))), atol=1e-12)
    np.testing.assert_allclose(embedding[0, :, 3, 1], np.float32(np.cos(row.astype(float))), atol=1e-12)


def test_sine_embedding_is_upstreams_but_for_the_last_bit_of_a_few_sines():
    mask = np.zeros((1, 23, 31), bool)
    mask[:, 18:], mask[:, :, 25:] = True, True
    ours = fa.PositionEmbeddingSine(128, normalize=True).apply({}, jnp.zeros((1, 23, 31, 3)), jnp.asarray(mask))
    feature = torch.arange(128, dtype=torch.float32)
    period = 10000 ** (2 * (feature // 2) / 128)
    upstream = []
    for axis in (1, 2):
        count = torch.tensor(~mask).cumsum(axis, dtype=torch.float32)
        angle = (count / (count.narrow(axis, -1, 1) + 1e-6) * 2 * np.pi)[..., None] / period
        upstream += [torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2)]
    off = np.abs(np.asarray(ours) - torch.cat(upstream, -1).double().numpy())
    assert off.max() <= 2**-24
    assert (off > 0).mean() < 0.05


def refused(module, *shapes, **arrays):
    return lambda: jax.eval_shape(lambda: module.init(jax.random.key(0), *map(jnp.zeros, shapes), **arrays))


MHA = fa.MultiheadAttention(E, H, batch_first=True)
QKV = [(N, Q, E)] * 3
REFUSED = [
    (lambda: fa.MultiheadAttention(10, 3), "MultiheadAttention: expected num_heads to divide embed_dim=10, got 3"),
    (lambda: fa.TransformerEncoderLayer(10, 3), "TransformerEncoderLayer: expected nhead to divide d_model=10, got 3"),
    (
        lambda: fa.TransformerDecoderLayer(12, 3, activation="glu"),
        "TransformerDecoderLayer: expected activation 'relu' or 'gelu', got 'glu'",
    ),
    (lambda: fa.MHAttentionMap(8, 10, 3), "MHAttentionMap: expected num_heads to divide hidden_dim=10, got 3"),
    (
        lambda: fa.PositionEmbeddingSine(4, scale=2.0),
        "PositionEmbeddingSine: expected normalize=True with a scale, got scale=2.0",
    ),
    (
        refused(MHA, (N, Q, 11), (N, Q, E), (N, Q, E)),
        "MultiheadAttention: expected query of width 12, got shape (2, 4, 11)",
    ),
    (
        refused(MHA, *QKV, attn_mask=jnp.zeros((Q, K))),
        "MultiheadAttention: expected attn_mask of shape (4, 4) or (6, 4, 4), got (4, 5)",
    ),
    (
        refused(MHA, *QKV, key_padding_mask=jnp.zeros((N, Q), int)),
        "MultiheadAttention: expected key_padding_mask of bool or floating point, got int64",
    ),
    (
        refused(MHA, *QKV, is_causal=True),
        "MultiheadAttention: expected attn_mask with is_causal=True, got None",
    ),
    (
        refused(fa.PositionEmbeddingLearned(4), (1, 51, 3, 1)),
        "PositionEmbeddingLearned: expected at most 50 rows and columns, got 51, 3",
    ),
    (
        refused(fa.Transformer(12, 3, 1, 1, 8), (1, 3, 4, 12), (1, 4, 3), (2, 12), (1, 3, 4, 12)),
        "Transformer: expected a mask of shape (1, 3, 4), got (1, 4, 3)",
    ),
    (
        refused(fa.Transformer(12, 3, 1, 1, 8), (1, 3, 4, 12), (1, 3, 4), (2, 12), (1, 4, 3, 12)),
        "Transformer: expected pos_embed of shape (1, 3, 4, 12), got (1, 4, 3, 12)",
    ),
    (
        lambda: fa.TransformerDecoder(fa.TransformerDecoderLayer(12, 3), 0),
        "TransformerDecoder: expected num_layers >= 1, got 0",
    ),
]


@pytest.mark.usefixtures("no_annotation_checks")
@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.MultiheadAttention(10, 3),
        lambda m: m.MultiheadAttention(E, H, batch_first=True)(
            *[torch.zeros(N, Q, E)] * 3, attn_mask=torch.zeros(Q, K)
        ),
        lambda m: m.MultiheadAttention(E, H)(
            *[torch.zeros(Q, N, E)] * 3, attn_mask=torch.zeros((Q, Q), dtype=torch.long)
        ),
    ],
)
def test_pytorch_refuses_it_too(call):
    import torch_ref.blocks.attention as attention

    with pytest.raises((AssertionError, RuntimeError)):
        call(attention)


def test_learned_embedding_of_pytorch_ends_at_50_too():
    from torch_ref.blocks.position import PositionEmbeddingLearned

    with pytest.raises(IndexError):
        PositionEmbeddingLearned(4)(torch.zeros(1, 1, 51, 3))
