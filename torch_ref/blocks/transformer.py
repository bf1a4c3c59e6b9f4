"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872"""

import copy

import torch
from torch import Tensor
from torch.nn import Dropout, LayerNorm, Linear, Module, ModuleList, init
from torch.nn.functional import gelu, relu

from torch_ref.blocks.attention import MultiheadAttention
from torch_ref.blocks.non_local import tokens

Attended = tuple[Tensor, Tensor | None]

ACTIVATIONS = {"relu": relu, "gelu": gelu}


def with_pos_embed(x: Tensor, pos: Tensor | None) -> Tensor:
    return x if pos is None else x + pos


class _Layer(Module):
    def __init__(self, d_model, nhead, dim_feedforward=2048, dropout=0.1, activation="relu", normalize_before=False):
        super().__init__()
        self.d_model = d_model
        self.nhead = nhead
        self.dim_feedforward = dim_feedforward
        self.dropout = dropout
        self.activation = activation
        self.normalize_before = normalize_before
        self.setup()

    def attention(self):
        d_model, nhead, dropout = self.d_model, self.nhead, self.dropout
        return MultiheadAttention(d_model, nhead, dropout, batch_first=True)

    def add_feedforward(self):
        d_model, hidden, dropout = self.d_model, self.dim_feedforward, self.dropout
        self.linear1 = Linear(d_model, hidden)
        self.linear2 = Linear(hidden, d_model)
        self.norm1 = LayerNorm(d_model)
        self.norm2 = LayerNorm(d_model)
        self.dropout0 = Dropout(dropout)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)

    def self_attention(self, x: Tensor, pos, mask, padding) -> Attended:
        q = with_pos_embed(x, pos)
        return self.self_attn(q, q, x, padding, attn_mask=mask)

    def feedforward(self, x: Tensor) -> Attended:
        return self.linear2(self.dropout0(ACTIVATIONS[self.activation](self.linear1(x)))), None

    def branch(self, x: Tensor, norm, dropout, residual) -> Attended:
        y, weights = residual(norm(x) if self.normalize_before else x)
        x = x + dropout(y)
        return x if self.normalize_before else norm(x), weights


class TransformerEncoderLayer(_Layer):
    def setup(self):
        self.self_attn = self.attention()
        self.add_feedforward()

    def forward(
        self, src: Tensor, src_mask=None, src_key_padding_mask=None, pos=None, attention_weights=False
    ) -> Tensor | tuple[Tensor, Tensor]:
        def attend(x):
            return self.self_attention(x, pos, src_mask, src_key_padding_mask)

        x, weights = self.branch(src, self.norm1, self.dropout1, attend)
        x, _ = self.branch(x, self.norm2, self.dropout2, self.feedforward)
        return (x, weights) if attention_weights else x


class TransformerDecoderLayer(_Layer):
    def setup(self):
        self.self_attn = self.attention()
        self.multihead_attn = self.attention()
        self.add_feedforward()
        self.norm3 = LayerNorm(self.d_model)
        self.dropout3 = Dropout(self.dropout)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask=None,
        memory_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        pos=None,
        query_pos=None,
        attention_weights=False,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        def attend(x):
            return self.self_attention(x, query_pos, tgt_mask, tgt_key_padding_mask)

        def look(x):
            q, k, v = with_pos_embed(x, query_pos), with_pos_embed(memory, pos), memory
            padding, mask = memory_key_padding_mask, memory_mask
            return self.multihead_attn(q, k, v, padding, attn_mask=mask)

        x, own = self.branch(tgt, self.norm1, self.dropout1, attend)
        x, other = self.branch(x, self.norm2, self.dropout2, look)
        x, _ = self.branch(x, self.norm3, self.dropout3, self.feedforward)
        return (x, own, other) if attention_weights else x


class TransformerEncoder(Module):
    def __init__(self, encoder_layer, num_layers, norm=None):
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.norm = norm

    def forward(self, src: Tensor, mask=None, src_key_padding_mask=None, pos=None) -> Tensor:
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, pos)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    def __init__(self, decoder_layer, num_layers, norm=None, return_intermediate=False):
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(decoder_layer) for _ in range(num_layers)])
        self.norm = norm
        self.return_intermediate = return_intermediate

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask=None,
        memory_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        pos=None,
        query_pos=None,
    ) -> Tensor:
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        outputs = []
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, pos, query_pos)
            outputs.append(tgt)
        chosen = outputs if self.return_intermediate else outputs[-1:]
        return torch.stack([x if self.norm is None else self.norm(x) for x in chosen])


class Transformer(Module):
    def __init__(
        self,
        d_model=512,
        nhead=8,
        num_encoder_layers=6,
        num_decoder_layers=6,
        dim_feedforward=2048,
        dropout=0.1,
        activation="relu",
        normalize_before=False,
        return_intermediate_dec=False,
    ):
        super().__init__()

        def layer(cls):
            return cls(
                d_model,
                nhead,
                dim_feedforward,
                dropout=dropout,
                activation=activation,
                normalize_before=normalize_before,
            )

        intermediate = return_intermediate_dec
        encoder_norm = LayerNorm(d_model) if normalize_before else None
        encoder_layer, decoder_layer = layer(TransformerEncoderLayer), layer(TransformerDecoderLayer)
        self.encoder = TransformerEncoder(encoder_layer, num_encoder_layers, encoder_norm)
        norm = LayerNorm(d_model)
        self.decoder = TransformerDecoder(decoder_layer, num_decoder_layers, norm, return_intermediate=intermediate)
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)

    def forward(self, src: Tensor, mask: Tensor, query_embed: Tensor, pos_embed: Tensor) -> tuple[Tensor, Tensor]:
        n, _, h, w = src.shape
        pos, mask = tokens(pos_embed), mask.reshape(n, h * w)
        query_pos = torch.broadcast_to(query_embed, (n, *query_embed.shape))
        memory = self.encoder(tokens(src), src_key_padding_mask=mask, pos=pos)
        tgt = torch.zeros_like(query_pos)
        found = self.decoder(tgt, memory, memory_key_padding_mask=mask, pos=pos, query_pos=query_pos)
        return found, memory.mT.reshape(src.shape)
