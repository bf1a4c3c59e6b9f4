"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872

Status: facebookresearch/detr, but tokens are (n, l, c) where upstream has (l, n, c). Position embeddings are added to
queries and keys of every layer. Before August 2020 upstream's decoder returned (l, n, c) without a leading axis where
``return_intermediate`` is off. Upstream's layers start with the same linear biases, being copies; here each draws its
own. ``MHAttentionMap`` takes its softmax over heads and pixels together, as published.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.blocks.attention import MultiheadAttention, split_heads
from flax_attn.layers import (
    Dropout,
    Initializer,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    einsum,
    gelu,
    init,
    relu,
    require,
    softmax,
)
from flax_attn.shapes import Image, Padding, Tokens

Memory = Float[Array, "n m c"]

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
        heads = (self.d_model, self.nhead, self.dropout)
        return MultiheadAttention(*heads, batch_first=True, kernel_init=self.kernel_init)

    def feedforward(self, x: Tokens, train: bool) -> Tokens:
        return self.linear2(self.dropout0(ACTIVATIONS[self.activation](self.linear1(x)), train))


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward network, each on a residual branch with a LayerNorm behind it or, with
    ``normalize_before``, in front. The masks are those of ``MultiheadAttention``."""

    def setup(self) -> None:
        self.self_attn = self.attention()
        self.linear1 = Linear(self.d_model, self.dim_feedforward, kernel_init=self.kernel_init)
        self.linear2 = Linear(self.dim_feedforward, self.d_model, kernel_init=self.kernel_init)
        self.norm1 = LayerNorm(self.d_model)
        self.norm2 = LayerNorm(self.d_model)
        self.dropout0 = Dropout(self.dropout)
        self.dropout1 = Dropout(self.dropout)
        self.dropout2 = Dropout(self.dropout)

    def __call__(
        self,
        src: Tokens,
        src_mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        pos: Array | None = None,
        train: bool = False,
    ) -> Tokens:
        def attend(x: Tokens) -> Tokens:
            q = with_pos_embed(x, pos)
            y = self.self_attn(q, q, x, src_key_padding_mask, False, src_mask, train=train)[0]
            return self.dropout1(y, train)

        def feed(x: Tokens) -> Tokens:
            return self.dropout2(self.feedforward(x, train), train)

        x = self.cast(src)
        if self.normalize_before:
            x = x + attend(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attend(x))
        return self.norm2(x + feed(x))


class TransformerDecoderLayer(_Layer):
    """Self-attention of the queries ``tgt``, attention from them to ``memory``, and a feed-forward network, each on a
    residual branch with a LayerNorm behind it or, with ``normalize_before``, in front."""

    def setup(self) -> None:
        self.self_attn = self.attention()
        self.multihead_attn = self.attention()
        self.linear1 = Linear(self.d_model, self.dim_feedforward, kernel_init=self.kernel_init)
        self.linear2 = Linear(self.dim_feedforward, self.d_model, kernel_init=self.kernel_init)
        self.norm1 = LayerNorm(self.d_model)
        self.norm2 = LayerNorm(self.d_model)
        self.norm3 = LayerNorm(self.d_model)
        self.dropout0 = Dropout(self.dropout)
        self.dropout1 = Dropout(self.dropout)
        self.dropout2 = Dropout(self.dropout)
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
    ) -> Tokens:
        memory = self.cast(memory)

        def attend(x: Tokens) -> Tokens:
            q = with_pos_embed(x, query_pos)
            y = self.self_attn(q, q, x, tgt_key_padding_mask, False, tgt_mask, train=train)[0]
            return self.dropout1(y, train)

        def look(x: Tokens) -> Tokens:
            tokens = with_pos_embed(x, query_pos), with_pos_embed(memory, pos), memory
            y = self.multihead_attn(*tokens, memory_key_padding_mask, False, memory_mask, train=train)[0]
            return self.dropout2(y, train)

        def feed(x: Tokens) -> Tokens:
            return self.dropout3(self.feedforward(x, train), train)

        x = self.cast(tgt)
        if self.normalize_before:
            x = x + attend(self.norm1(x))
            x = x + look(self.norm2(x))
            return x + feed(self.norm3(x))
        x = self.norm1(x + attend(x))
        x = self.norm2(x + look(x))
        return self.norm3(x + feed(x))


class TransformerEncoder(Module):
    """``num_layers`` layers like ``encoder_layer``, and ``norm`` if there is one."""

    encoder_layer: TransformerEncoderLayer
    num_layers: int
    norm: LayerNorm | None = None

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
    """``num_layers`` layers like ``decoder_layer`` and ``norm``; returns (1, n, l, c), the result, or with
    ``return_intermediate`` (num_layers, n, l, c), that of each layer."""

    decoder_layer: TransformerDecoderLayer
    num_layers: int
    norm: LayerNorm | None = None
    return_intermediate: bool = False

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
    """DETR's: what ``query_embed`` (q, d_model) finds in an image.

    Args:
        return_intermediate_dec: return what every layer of the decoder found, not only the last.

    The call takes an image ``src`` (n, h, w, d_model), ``mask`` (n, h, w), True where it is padding, and ``pos_embed``
    of the shape of ``src``. It returns (layers or 1, n, q, d_model) and the encoder's image (n, h, w, d_model).
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
        sizes = (self.d_model, self.nhead, self.dim_feedforward)
        arguments = (*sizes, self.dropout, self.activation, self.normalize_before)
        encoder_layer = TransformerEncoderLayer(*arguments, kernel_init=init.xavier_uniform())
        encoder_norm = LayerNorm(self.d_model) if self.normalize_before else None
        self.encoder = TransformerEncoder(encoder_layer, self.num_encoder_layers, encoder_norm)
        decoder_layer = TransformerDecoderLayer(*arguments, kernel_init=init.xavier_uniform())
        norm, intermediate = LayerNorm(self.d_model), self.return_intermediate_dec
        self.decoder = TransformerDecoder(decoder_layer, self.num_decoder_layers, norm, intermediate)

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
        tokens, pos, mask = src.reshape(n, h * w, c), pos_embed.reshape(n, h * w, c), mask.reshape(n, h * w)
        query_pos = jnp.broadcast_to(query_embed, (n, *query_embed.shape))
        memory = self.encoder(tokens, src_key_padding_mask=mask, pos=pos, train=train)
        tgt = jnp.zeros_like(query_pos, memory.dtype)
        found = self.decoder(tgt, memory, None, None, None, mask, pos, query_pos, train=train)
        return found, memory.reshape(n, h, w, c)


class MHAttentionMap(Module):
    """How much each query q (n, l, query_dim) looks at each pixel of k (n, h, w, query_dim), by head.

    ``mask`` (n, h, w) is True where no query may look. The softmax runs over heads and pixels together.
    """

    query_dim: int
    hidden_dim: int
    num_heads: int
    dropout: float = 0.0
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        heads, dim = self.num_heads, self.hidden_dim
        divides = heads >= 1 and dim % heads == 0
        require(divides, f"MHAttentionMap: expected num_heads to divide hidden_dim={dim}, got {heads}")

    def setup(self) -> None:
        dims, given = (self.query_dim, self.hidden_dim, self.bias), init.xavier_uniform()
        self.q_linear = Linear(*dims, kernel_init=given, bias_init=init.zeros)
        self.k_linear = Linear(*dims, kernel_init=given, bias_init=init.zeros)
        self.dropout0 = Dropout(self.dropout)

    def __call__(
        self, q: Tokens, k: Image, mask: Array | None = None, train: bool = False
    ) -> Float[Array, "n l heads h w"]:
        n, h, w, _ = k.shape
        queries = split_heads(self.q_linear(q), self.num_heads)
        keys = split_heads(self.k_linear(k).reshape(n, h * w, -1), self.num_heads)
        scale = (self.hidden_dim / self.num_heads) ** -0.5
        logits = einsum("nlad,nsad->nlas", queries * scale, keys, wide=True)
        if mask is not None:
            require(mask.shape == (n, h, w), f"MHAttentionMap: expected a mask of shape {(n, h, w)}, got {mask.shape}")
            logits = jnp.where(mask.reshape(n, 1, 1, h * w), -jnp.inf, logits)
        weights = softmax(logits, (-2, -1)).astype(keys.dtype)
        return self.dropout0(weights.reshape(*weights.shape[:3], h, w), train)
