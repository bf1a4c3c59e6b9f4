"""``torch.nn``'s transformer layers, with its arguments and keys. Trap: tokens are (l, n, c) unless ``batch_first``.

Follows: torch.nn.TransformerEncoderLayer, TransformerDecoderLayer, TransformerEncoder and TransformerDecoder.
Differs: ``is_causal`` is a hint about the mask that is given beside it, and changes nothing. Tokens need a batch axis.
Where nothing needs a gradient, some kernels of PyTorch write zeros at padded tokens; here these are what the formula
gives. PyTorch copies one layer, and so all layers of a stack start with the same numbers; here each draws its own.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from jaxtyping import Array, Float

from flax_attn.blocks.attention import MultiheadAttention
from flax_attn.layers.activation import gelu, relu
from flax_attn.layers.dropout import Dropout
from flax_attn.layers.linear import Linear
from flax_attn.layers.module import Module, require
from flax_attn.layers.norm import LayerNorm
from flax_attn.layers.sequential import ModuleList
from flax_attn.layers.shape import check_padding

AnyTokens = Float[Array, "a b c"]
AnyMemory = Float[Array, "d e c"]
Activation = Callable[[Array], Array]

ACTIVATIONS = {"relu": relu, "gelu": gelu}


class _Layer(Module):
    d_model: int
    nhead: int
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: str | Activation = relu
    layer_norm_eps: float = 1e-5
    batch_first: bool = False
    norm_first: bool = False
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        who, dim, heads, got = type(self).__name__, self.d_model, self.nhead, self.activation
        require(heads >= 1 and dim % heads == 0, f"{who}: expected nhead to divide d_model={dim}, got {heads}")
        known = callable(got) or got in ACTIVATIONS
        require(known, f"{who}: expected activation 'relu', 'gelu' or a function, got {got!r}")

    def attention(self) -> MultiheadAttention:
        return MultiheadAttention(self.d_model, self.nhead, self.dropout, bias=self.bias, batch_first=self.batch_first)

    def norm(self) -> LayerNorm:
        return LayerNorm(self.d_model, self.layer_norm_eps, bias=self.bias)

    def add_feedforward(self) -> None:
        """Create the layers behind the attention that both classes have."""
        self.linear1 = Linear(self.d_model, self.dim_feedforward, self.bias)
        self.linear2 = Linear(self.dim_feedforward, self.d_model, self.bias)
        self.norm1 = self.norm()
        self.norm2 = self.norm()
        self.dropout0 = Dropout(self.dropout)
        self.dropout1 = Dropout(self.dropout)
        self.dropout2 = Dropout(self.dropout)

    def attend(
        self,
        attention: MultiheadAttention,
        x: AnyTokens,
        memory: AnyMemory,
        mask: Array | None,
        padding: Array | None,
        *,
        is_causal: bool,
        train: bool,
    ) -> AnyTokens:
        """What ``attention`` reads from ``memory`` for each token of x."""
        call: dict[str, Any] = dict(need_weights=False, attn_mask=mask, is_causal=is_causal, train=train)
        return attention(x, memory, memory, padding, **call)[0]

    def feedforward(self, x: AnyTokens, train: bool) -> AnyTokens:
        activate = ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        return self.linear2(self.dropout0(activate(self.linear1(x)), train))

    def branch(self, x: AnyTokens, norm: LayerNorm, residual: Callable[[AnyTokens], AnyTokens]) -> AnyTokens:
        """Add ``residual`` of x to x, with ``norm`` in front of it or behind the sum."""
        return x + residual(norm(x)) if self.norm_first else norm(x + residual(x))

    def check(self, tokens: str, x: Array, name: str, padding: Array | None) -> None:
        """Refuse tokens of another rank or width, and a padding mask that does not fit."""
        who = type(self).__name__
        fits = x.ndim == 3 and x.shape[-1] == self.d_model
        order = "(n, l, c)" if self.batch_first else "(l, n, c)"
        require(fits, f"{who}: expected {tokens} of shape {order} with c={self.d_model}, got {x.shape}")
        check_padding(f"{who}: expected {name}", padding, x.shape, batch_first=self.batch_first)


class TransformerEncoderLayer(_Layer):
    """``torch.nn.TransformerEncoderLayer``: self-attention, then a feed-forward network, each on a residual branch.

    Args:
        activation: "relu", "gelu" or a function of an array.
        batch_first: whether tokens are (n, l, c). PyTorch's default, False, means (l, n, c).
        norm_first: whether a LayerNorm precedes each branch; else one follows each sum.
        bias: whether the linear layers and the LayerNorms have a bias.

    The call takes ``src_mask`` (l, l) or (n * nhead, l, l), and ``src_key_padding_mask`` (n, l). In a bool mask, True
    means that the token is ignored; a floating point mask is added to the logits. ``is_causal=True`` needs a mask.
    Raises ValueError for tokens and masks that do not fit.
    """

    def setup(self) -> None:
        self.self_attn = self.attention()
        self.add_feedforward()

    def __call__(
        self,
        src: AnyTokens,
        src_mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        is_causal: bool = False,
        train: bool = False,
    ) -> AnyTokens:
        self.check("src", src, "src_key_padding_mask", src_key_padding_mask)

        def attend(x: AnyTokens) -> AnyTokens:
            masks = (src_mask, src_key_padding_mask)
            return self.dropout1(self.attend(self.self_attn, x, x, *masks, is_causal=is_causal, train=train), train)

        def feed(x: AnyTokens) -> AnyTokens:
            return self.dropout2(self.feedforward(x, train), train)

        x = self.branch(self.cast(src), self.norm1, attend)
        return self.branch(x, self.norm2, feed)


class TransformerDecoderLayer(_Layer):
    """``torch.nn.TransformerDecoderLayer``: self-attention of ``tgt``, attention to ``memory``, a feed-forward network.

    Each of the three is on a residual branch. The arguments are those of ``TransformerEncoderLayer``, and so are the
    masks: ``tgt_mask`` (l, l), ``memory_mask`` (l, m), ``tgt_key_padding_mask`` (n, l) and
    ``memory_key_padding_mask`` (n, m). Raises ValueError for tokens and masks that do not fit.
    """

    def setup(self) -> None:
        self.self_attn = self.attention()
        self.multihead_attn = self.attention()
        self.add_feedforward()
        self.norm3 = self.norm()
        self.dropout3 = Dropout(self.dropout)

    def __call__(
        self,
        tgt: AnyTokens,
        memory: AnyMemory,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        train: bool = False,
    ) -> AnyTokens:
        self.check("tgt", tgt, "tgt_key_padding_mask", tgt_key_padding_mask)
        self.check("memory", memory, "memory_key_padding_mask", memory_key_padding_mask)

        def attend(x: AnyTokens) -> AnyTokens:
            masks = (tgt_mask, tgt_key_padding_mask)
            y = self.attend(self.self_attn, x, x, *masks, is_causal=tgt_is_causal, train=train)
            return self.dropout1(y, train)

        def look(x: AnyTokens) -> AnyTokens:
            masks, m = (memory_mask, memory_key_padding_mask), self.cast(memory)
            y = self.attend(self.multihead_attn, x, m, *masks, is_causal=memory_is_causal, train=train)
            return self.dropout2(y, train)

        def feed(x: AnyTokens) -> AnyTokens:
            return self.dropout3(self.feedforward(x, train), train)

        x = self.branch(self.cast(tgt), self.norm1, attend)
        x = self.branch(x, self.norm2, look)
        return self.branch(x, self.norm3, feed)


class TransformerEncoder(Module):
    """``torch.nn.TransformerEncoder``: ``num_layers`` layers like ``encoder_layer``, then ``norm``, if there is one.

    ``is_causal=None`` means the same as False. ``mask`` and ``src_key_padding_mask`` go to every layer.
    """

    encoder_layer: TransformerEncoderLayer
    num_layers: int
    norm: LayerNorm | None = None
    registered_last: ClassVar[Sequence[str]] = ("norm",)

    def setup(self) -> None:
        self.layers = ModuleList([self.encoder_layer.clone() for _ in range(self.num_layers)])

    def __call__(
        self,
        src: AnyTokens,
        mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        is_causal: bool | None = None,
        train: bool = False,
    ) -> AnyTokens:
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal), train=train)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """``torch.nn.TransformerDecoder``: ``num_layers`` layers like ``decoder_layer``, then ``norm``, if there is one.

    ``tgt_is_causal=None`` means the same as False. The masks go to every layer.
    """

    decoder_layer: TransformerDecoderLayer
    num_layers: int
    norm: LayerNorm | None = None
    registered_last: ClassVar[Sequence[str]] = ("norm",)

    def setup(self) -> None:
        self.layers = ModuleList([self.decoder_layer.clone() for _ in range(self.num_layers)])

    def __call__(
        self,
        tgt: AnyTokens,
        memory: AnyMemory,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
        train: bool = False,
    ) -> AnyTokens:
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, bool(tgt_is_causal), memory_is_causal, train=train)
        return tgt if self.norm is None else self.norm(tgt)
