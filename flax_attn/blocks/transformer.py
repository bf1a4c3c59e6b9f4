"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872

Follows: facebookresearch/detr@29901c5. Position embeddings are added to the queries and keys of every layer.
Differs: tokens are (n, l, c), where upstream has (l, n, c). Upstream copies one layer, and so all its layers start with
the same linear biases; here each layer draws its own. The decoder's output always has a leading axis of layers; before
August 2020 upstream's had none with ``return_intermediate=False``.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.blocks.attention import MultiheadAttention
from flax_attn.blocks.non_local import tokens
from flax_attn.layers import (
    Dropout,
    Initializer,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    check_padding,
    gelu,
    init,
    relu,
    require,
)
from flax_attn.shapes import Image, Padding, Tokens

Memory = Float[Array, "n m c"]

Attended = tuple[Tokens, Any]
"""The result of an attention, and its weights (n, queries, keys) where they are wanted."""

ACTIVATIONS = {"relu": relu, "gelu": gelu}


def with_pos_embed(x: Tokens, pos: Array | None) -> Tokens:
    """x plus its position embedding, if there is one."""
    return x if pos is None else x + pos.astype(x.dtype)


class _Layer(Module):
    d_model: int
    nhead: int
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: str = "relu"
    normalize_before: bool = False
    kernel_init: Initializer | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        who, dim, heads = type(self).__name__, self.d_model, self.nhead
        require(heads >= 1 and dim % heads == 0, f"{who}: expected nhead to divide d_model={dim}, got {heads}")
        got = self.activation
        require(got in ACTIVATIONS, f"{who}: expected activation 'relu' or 'gelu', got {got!r}")

    def attention(self) -> MultiheadAttention:
        d_model, nhead, dropout = self.d_model, self.nhead, self.dropout
        return MultiheadAttention(d_model, nhead, dropout, batch_first=True, kernel_init=self.kernel_init)

    def add_feedforward(self) -> None:
        """Create the layers behind the attention that both classes have."""
        d_model, hidden, dropout = self.d_model, self.dim_feedforward, self.dropout
        self.linear1 = Linear(d_model, hidden, kernel_init=self.kernel_init)
        self.linear2 = Linear(hidden, d_model, kernel_init=self.kernel_init)
        self.norm1 = LayerNorm(d_model)
        self.norm2 = LayerNorm(d_model)
        self.dropout0 = Dropout(dropout)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)

    def self_attention(
        self, x: Tokens, pos: Array | None, mask: Array | None, padding: Array | None, need: bool, train: bool
    ) -> Attended:
        """Self-attention of x, with ``pos`` added to queries and keys, but not to values; its weights if ``need``."""
        q = with_pos_embed(x, pos)
        return self.self_attn(q, q, x, padding, need_weights=need, attn_mask=mask, train=train)

    def feedforward(self, x: Tokens, train: bool) -> Attended:
        return self.linear2(self.dropout0(ACTIVATIONS[self.activation](self.linear1(x)), train)), None

    def check(self, name: str, padding: Array | None, x: Array) -> None:
        check_padding(f"{type(self).__name__}: expected {name}", padding, x.shape)

    def branch(
        self, x: Tokens, norm: LayerNorm, dropout: Dropout, residual: Callable[[Tokens], Attended], train: bool
    ) -> Attended:
        """Add ``residual`` of x to x, with ``norm`` in front of it or behind the sum; return also its weights."""
        y, weights = residual(norm(x) if self.normalize_before else x)
        x = x + dropout(y, train)
        return x if self.normalize_before else norm(x), weights


class TransformerEncoderLayer(_Layer):
    """Self-attention and then a feed-forward network, each on a residual branch.

    A LayerNorm follows each sum or, with ``normalize_before``, precedes each branch. The call takes the masks of
    ``MultiheadAttention``. With ``attention_weights=True`` it returns also the weights (n, l, l), the mean over heads.
    """

    def setup(self) -> None:
        self.self_attn = self.attention()
        self.add_feedforward()

    def __call__(
        self,
        src: Tokens,
        src_mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        pos: Array | None = None,
        train: bool = False,
        attention_weights: bool = False,
    ) -> Tokens | tuple[Tokens, Float[Array, "n l l"]]:
        self.check("src_key_padding_mask", src_key_padding_mask, src)

        def attend(x: Tokens) -> Attended:
            return self.self_attention(x, pos, src_mask, src_key_padding_mask, attention_weights, train)

        x, weights = self.branch(self.cast(src), self.norm1, self.dropout1, attend, train)
        x, _ = self.branch(x, self.norm2, self.dropout2, partial(self.feedforward, train=train), train)
        return (x, weights) if attention_weights else x


class TransformerDecoderLayer(_Layer):
    """Self-attention of ``tgt``, then attention from ``tgt`` to ``memory``, then a feed-forward network.

    Each of the three is on a residual branch. A LayerNorm follows each sum or, with ``normalize_before``, precedes each
    branch. The call takes the masks of ``MultiheadAttention``. With ``attention_weights=True`` it returns also the
    weights of ``tgt`` for itself (n, l, l) and for ``memory`` (n, l, m), each the mean over heads.
    """

    def setup(self) -> None:
        self.self_attn = self.attention()
        self.multihead_attn = self.attention()
        self.add_feedforward()
        self.norm3 = LayerNorm(self.d_model)
        self.dropout3 = Dropout(self.dropout)

    def __call__(
        self,
        tgt: Tokens,
        memory: Memory,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        pos: Array | None = None,
        query_pos: Array | None = None,
        train: bool = False,
        attention_weights: bool = False,
    ) -> Tokens | tuple[Tokens, Float[Array, "n l l"], Float[Array, "n l m"]]:
        self.check("tgt_key_padding_mask", tgt_key_padding_mask, tgt)
        self.check("memory_key_padding_mask", memory_key_padding_mask, memory)

        def attend(x: Tokens) -> Attended:
            return self.self_attention(x, query_pos, tgt_mask, tgt_key_padding_mask, attention_weights, train)

        def look(x: Tokens) -> Attended:
            q, k, v = with_pos_embed(x, query_pos), with_pos_embed(self.cast(memory), pos), self.cast(memory)
            padding, mask, need = memory_key_padding_mask, memory_mask, attention_weights
            return self.multihead_attn(q, k, v, padding, need_weights=need, attn_mask=mask, train=train)

        x, own = self.branch(self.cast(tgt), self.norm1, self.dropout1, attend, train)
        x, other = self.branch(x, self.norm2, self.dropout2, look, train)
        x, _ = self.branch(x, self.norm3, self.dropout3, partial(self.feedforward, train=train), train)
        return (x, own, other) if attention_weights else x


class TransformerEncoder(Module):
    """Apply ``num_layers`` layers like ``encoder_layer`` one after another, and then ``norm``, if there is one."""

    encoder_layer: TransformerEncoderLayer
    num_layers: int
    norm: LayerNorm | None = None
    registered_last: ClassVar[Sequence[str]] = ("norm",)

    def setup(self) -> None:
        self.layers = ModuleList([self.encoder_layer.clone() for _ in range(self.num_layers)])

    def __call__(
        self,
        src: Tokens,
        mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        pos: Array | None = None,
        train: bool = False,
    ) -> Tokens:
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, pos, train=train)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """Apply ``num_layers`` layers like ``decoder_layer`` one after another.

    Returns the output of the last layer, (1, n, l, c), or with ``return_intermediate`` that of every layer,
    (num_layers, n, l, c). ``norm``, if there is one, is applied to each.
    """

    decoder_layer: TransformerDecoderLayer
    num_layers: int
    norm: LayerNorm | None = None
    return_intermediate: bool = False
    registered_last: ClassVar[Sequence[str]] = ("norm",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_layers >= 1, f"TransformerDecoder: expected num_layers >= 1, got {self.num_layers}")

    def setup(self) -> None:
        self.layers = ModuleList([self.decoder_layer.clone() for _ in range(self.num_layers)])

    def __call__(
        self,
        tgt: Tokens,
        memory: Memory,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        pos: Array | None = None,
        query_pos: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "k n l c"]:
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        outputs = []
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, pos, query_pos, train=train)
            outputs.append(tgt)
        chosen = outputs if self.return_intermediate else outputs[-1:]
        return jnp.stack([x if self.norm is None else self.norm(x) for x in chosen])


class Transformer(Module):
    """DETR's transformer: an encoder of a feature map, and a decoder from queries to the encoded map.

    Args:
        return_intermediate_dec: return the output of every layer of the decoder, not only that of the last.

    The call takes a feature map ``src`` (n, h, w, d_model), ``mask`` (n, h, w), which is True for padding, the queries'
    embedding ``query_embed`` (q, d_model), and ``pos_embed`` of the shape of ``src``. It returns the outputs of the
    decoder, (layers or 1, n, q, d_model), and of the encoder, (n, h, w, d_model).
    """

    d_model: int = 512
    nhead: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: str = "relu"
    normalize_before: bool = False
    return_intermediate_dec: bool = False

    def setup(self) -> None:
        d_model, intermediate = self.d_model, self.return_intermediate_dec
        encoder_norm = LayerNorm(d_model) if self.normalize_before else None
        encoder_layer, decoder_layer = self.layer(TransformerEncoderLayer), self.layer(TransformerDecoderLayer)
        self.encoder = TransformerEncoder(encoder_layer, self.num_encoder_layers, encoder_norm)
        norm = LayerNorm(d_model)
        layers = self.num_decoder_layers
        self.decoder = TransformerDecoder(decoder_layer, layers, norm, return_intermediate=intermediate)

    def layer(self, cls: type[_Layer]) -> Any:
        return cls(
            self.d_model,
            self.nhead,
            self.dim_feedforward,
            dropout=self.dropout,
            activation=self.activation,
            normalize_before=self.normalize_before,
            kernel_init=init.xavier_uniform(),
        )

    def __call__(
        self,
        src: Image,
        mask: Padding,
        query_embed: Float[Array, "q c"],
        pos_embed: Image,
        train: bool = False,
    ) -> tuple[Float[Array, "k n q c"], Image]:
        n, h, w, c = src.shape
        require(c == self.d_model, f"Transformer: expected an image of {self.d_model} channels, got shape {src.shape}")
        require(mask.shape == (n, h, w), f"Transformer: expected a mask of shape {(n, h, w)}, got {mask.shape}")
        got = pos_embed.shape
        require(got == src.shape, f"Transformer: expected pos_embed of shape {src.shape}, got {got}")
        pos, mask = tokens(pos_embed), mask.reshape(n, h * w)
        query_pos = jnp.broadcast_to(query_embed, (n, *query_embed.shape))
        memory = self.encoder(tokens(src), src_key_padding_mask=mask, pos=pos, train=train)
        tgt = jnp.zeros_like(query_pos, memory.dtype)
        found = self.decoder(tgt, memory, memory_key_padding_mask=mask, pos=pos, query_pos=query_pos, train=train)
        return found, memory.reshape(n, h, w, c)
