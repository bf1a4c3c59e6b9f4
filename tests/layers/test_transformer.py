"""torch.nn's transformer layers: outputs and all gradients in float64, masks, orders of axes and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import plan
from convert.state_dict import MismatchError
from flax_attn import layers
from flax_attn.blocks.transformer import TransformerDecoderLayer, TransformerEncoderLayer
from flax_attn.catalog.spelling import module_from_json, module_to_json
from tests.helpers.layer import layers_of, normal
from tests.helpers.parity import randomise
from tests.helpers.tolerances import assert_close

N, L, M, E, H = 2, 4, 5, 12, 3
CAUSAL = np.triu(np.ones((L, L), bool), 1)
HEADS = np.where(np.random.default_rng(1).random((N * H, L, L)) < 0.3, -1.5, 0.25)
PADDED = np.array([[False] * L, [False, False, True, True]])
MEMORY_MASK = np.where(np.random.default_rng(2).random((L, M)) < 0.3, -2.0, 0.5)
MEMORY_PADDED = np.array([[False, True, False, False, True], [False] * M])


def tokens(length, batch_first, seed=0):
    return normal(*((N, length) if batch_first else (length, N)), E, seed=seed)


def check(ours, theirs, inputs, masks, train=True, **flags):
    """Outputs, gradients of the inputs and gradients of the parameters."""
    theirs.double().train(train).zero_grad()
    randomise(theirs, np.random.default_rng(3))
    arrays = {name: jnp.asarray(mask) for name, mask in masks.items()}
    leaves = plan(ours, *map(jnp.asarray, inputs), **arrays, **flags)
    variables = leaves.from_torch(theirs.state_dict())
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    out = theirs(*tensors, **{name: torch.tensor(mask) for name, mask in masks.items()}, **flags)
    cotangent = normal(*out.shape, seed=4)
    out.backward(torch.tensor(cotangent))

    @jax.jit
    def step(variables, inputs, cotangent):
        y, pull = jax.vjp(lambda v, x: ours.apply(v, *x, **arrays, **flags, train=train), variables, inputs)
        return y, *pull(cotangent)

    y, grads, input_grads = step(variables, [jnp.asarray(x) for x in inputs], jnp.asarray(cotangent))
    assert_close(y, out.detach(), what="output")
    for got, t in zip(input_grads, tensors, strict=True):
        assert_close(got, t.grad, what="gradient of an input")
    grads = leaves.to_torch(grads)
    assert list(grads) == list(leaves.parameters) == [name for name, _ in theirs.named_parameters()]
    for key, parameter in theirs.named_parameters():
        assert_close(grads[key], parameter.grad, what=f"gradient of {key}")


FORMS = [
    (dict(batch_first=True), {}),
    (dict(norm_first=True), dict(src_mask=CAUSAL, is_causal=True)),
    (dict(activation="gelu", bias=False), dict(src_key_padding_mask=PADDED)),
    (dict(batch_first=True, norm_first=True, layer_norm_eps=0.1), dict(src_mask=HEADS)),
    (dict(batch_first=True, activation="tanh"), dict(src_mask=CAUSAL, src_key_padding_mask=PADDED)),
]
TANH = {"tanh": (jnp.tanh, torch.tanh)}


def pair(name, arguments, **shared):
    """One layer of both sides, with a function as activation where ``arguments`` name one in ``TANH``."""
    made = []
    for side, package in enumerate((layers, torch.nn)):
        own = {k: TANH[v][side] if v in TANH and k == "activation" else v for k, v in arguments.items()}
        made.append(getattr(package, name)(E, H, **{"dim_feedforward": 10, "dropout": 0.0, **shared, **own}))
    return made


@pytest.mark.parametrize(("arguments", "call"), FORMS, ids=lambda form: "-".join(form) or "plain")
def test_encoder_layer(arguments, call):
    flags = {name: value for name, value in call.items() if isinstance(value, bool)}
    masks = {name: value for name, value in call.items() if name not in flags}
    inputs = [tokens(L, arguments.get("batch_first", False))]
    check(*pair("TransformerEncoderLayer", arguments), inputs, masks, **flags)


DECODER_FORMS = [
    (dict(), dict(tgt_mask=CAUSAL)),
    (dict(batch_first=True, norm_first=True), dict(memory_mask=MEMORY_MASK)),
    (dict(norm_first=True, bias=False), dict(tgt_key_padding_mask=PADDED, memory_key_padding_mask=MEMORY_PADDED)),
    (dict(batch_first=True, activation="gelu"), dict(tgt_mask=HEADS, memory_key_padding_mask=MEMORY_PADDED)),
]


@pytest.mark.parametrize(("arguments", "masks"), DECODER_FORMS, ids=lambda form: "-".join(form) or "plain")
def test_decoder_layer(arguments, masks):
    first = arguments.get("batch_first", False)
    check(*pair("TransformerDecoderLayer", arguments), [tokens(L, first), tokens(M, first, seed=5)], masks)


def test_stacks():
    form = dict(batch_first=True, norm_first=True)
    ours, theirs = pair("TransformerEncoderLayer", form)
    stack = layers.TransformerEncoder(ours, 2, layers.LayerNorm(E))
    twin = torch.nn.TransformerEncoder(theirs, 2, torch.nn.LayerNorm(E), enable_nested_tensor=False)
    check(stack, twin, [tokens(L, True)], dict(mask=CAUSAL, src_key_padding_mask=PADDED))
    ours, theirs = pair("TransformerDecoderLayer", {})
    stack = layers.TransformerDecoder(ours, 2, layers.LayerNorm(E))
    twin = torch.nn.TransformerDecoder(theirs, 2, torch.nn.LayerNorm(E))
    masks = dict(tgt_mask=CAUSAL, memory_mask=MEMORY_MASK, memory_key_padding_mask=MEMORY_PADDED)
    masks = {name: np.where(mask, -1e3, 0.0) if mask.dtype == bool else mask for name, mask in masks.items()}
    check(stack, twin, [tokens(L, False), tokens(M, False, seed=5)], masks)


def test_defaults_are_torchs():
    ours, theirs = layers.TransformerEncoderLayer(16, 2), torch.nn.TransformerEncoderLayer(16, 2)
    expected = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert plan(ours, jnp.ones((3, 2, 16))).shapes == expected
    assert (ours.dropout, ours.norm_first, ours.batch_first) == (theirs.dropout.p, theirs.norm_first, False)
    assert ours.layer_norm_eps == theirs.norm1.eps
    assert ours.activation is layers.relu


def test_dropout_is_in_torchs_places():
    for name, inputs, dropouts in (("Encoder", 1, 3), ("Decoder", 2, 4)):
        ours, theirs = pair(f"Transformer{name}Layer", dict(batch_first=True), dropout=1.0)
        check(ours, theirs, [tokens(L, True, seed=i) for i in range(inputs)], {})
        called = layers_of(ours, *[jnp.ones((N, L, E))] * inputs)
        names = {path for path, layer in called.items() if isinstance(layer, layers.Dropout)}
        attentions = ["self_attn", "multihead_attn"][:inputs]
        assert names == {f"dropout{i}" for i in range(dropouts)} | {f"{name}.attn_dropout" for name in attentions}
        check(ours, theirs, [tokens(L, True, seed=i) for i in range(inputs)], {}, train=False)


def refused(layer, *inputs, **masks):
    with pytest.raises(ValueError, match=r"\w") as caught:
        jax.eval_shape(lambda: layer.init(jax.random.key(0), *inputs, **masks))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_refused(no_annotation_checks):
    x, padding = jnp.ones((N, L, E)), jnp.asarray(PADDED)
    layer = layers.TransformerEncoderLayer(E, H)
    assert refused(layer, x, src_key_padding_mask=padding) == (
        "TransformerEncoderLayer: expected src_key_padding_mask of shape (n, l) = (4, 2), got (2, 4); "
        "the tokens (2, 4, 12) look like (n, l, c), give them as (l, n, c)"
    )
    assert "expected src of shape (l, n, c) with c=12, got (4, 12)" in refused(layer, x[0])
    assert "expected src of shape (n, l, c) with c=12, got (2, 4, 11)" in refused(
        layer.clone(batch_first=True), x[..., 1:]
    )
    assert "expected attn_mask with is_causal=True, got None" in refused(layer, x, is_causal=True)
    assert "expected attn_mask of shape" in refused(layer, x, src_mask=jnp.ones((3, 3), bool))
    decoder = layers.TransformerDecoderLayer(E, H, batch_first=True)
    memory = jnp.ones((N, M, E))
    assert "expected memory_key_padding_mask of shape (n, l) = (2, 5), got (2, 4)" in refused(
        decoder, x, memory, memory_key_padding_mask=padding
    )
    with pytest.raises(ValueError, match="expected activation 'relu', 'gelu' or a function, got 'tanh'"):
        layers.TransformerEncoderLayer(E, H, activation="tanh")
    with pytest.raises(ValueError, match="TransformerDecoderLayer: expected nhead to divide d_model=12, got 5"):
        layers.TransformerDecoderLayer(E, 5)


def test_detrs_layers_name_an_input_that_is_sequence_first(no_annotation_checks):
    x, memory, padding = jnp.ones((L, N, E)), jnp.ones((M, N, E)), jnp.asarray(PADDED)
    look = "look like (l, n, c), give them as (n, l, c)"
    assert refused(TransformerEncoderLayer(E, H), x, src_key_padding_mask=padding) == (
        "TransformerEncoderLayer: expected src_key_padding_mask of shape (n, l) = (4, 2), got (2, 4); "
        f"the tokens (4, 2, 12) {look}"
    )
    decoder = TransformerDecoderLayer(E, H)
    assert look in refused(decoder, x, memory, tgt_key_padding_mask=padding)
    assert look in refused(decoder, x, memory, memory_key_padding_mask=jnp.asarray(MEMORY_PADDED))
    assert "got (2, 3)" in refused(decoder, x, memory, memory_key_padding_mask=padding[:, :3])


def test_the_names_are_not_those_of_detr():
    assert layers.TransformerEncoderLayer is not TransformerEncoderLayer
    with pytest.raises(AttributeError, match="Transformers"):
        layers.Transformers  # noqa: B018
    with pytest.raises(MismatchError, match="self_attn"):
        plan(layers.TransformerEncoderLayer(E, H), jnp.ones((L, N, E))).from_torch({})
    for module in (layers.TransformerEncoderLayer(E, H), TransformerEncoderLayer(E, H)):
        assert module_from_json(module_to_json(module)) == module
