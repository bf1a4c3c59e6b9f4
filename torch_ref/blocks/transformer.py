"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from torch_ref.blocks.attention import MultiheadAttention, split_heads

ACTIVATIONS = {"relu": relu, "gelu": gelu}


def with_pos_embed(x: Tensor, pos: Tensor | None) -> Tensor:
    return x if pos is None else x + pos


class _Layer(nn.Module):
    def attention(self, d_model, nhead, dropout):
        return MultiheadAttention(d_model, nhead, dropout, batch_first=True)

    def feedforward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout0(ACTIVATIONS[self.activation](self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    def __init__(self, d_model, nhead, dim_feedforward=2048, dropout=0.1, activation="relu", normalize_before=False):
        super().__init__()
        self.activation = activation
        self.normalize_before = normalize_before
        self.self_attn = self.attention(d_model, nhead, dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout0 = nn.Dropout(dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, src: Tensor, src_mask=None, src_key_padding_mask=None, pos=None) -> Tensor:
        def attend(x):
            q = with_pos_embed(x, pos)
            y = self.self_attn(q, q, x, src_key_padding_mask, attn_mask=src_mask)[0]
            return self.dropout1(y)

        def feed(x):
            return self.dropout2(self.feedforward(x))

        x = src
        if self.normalize_before:
            x = x + attend(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attend(x))
        return self.norm2(x + feed(x))


class TransformerDecoderLayer(_Layer):
    def __init__(self, d_model, nhead, dim_feedforward=2048, dropout=0.1, activation="relu", normalize_before=False):
        super().__init__()
        self.activation = activation
        self.normalize_before = normalize_before
        self.self_attn = self.attention(d_model, nhead, dropout)
        self.multihead_attn = self.attention(d_model, nhead, dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout0 = nn.Dropout(dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)

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
        def attend(x):
            q = with_pos_embed(x, query_pos)
            y = self.self_attn(q, q, x, tgt_key_padding_mask, attn_mask=tgt_mask)[0]
            return self.dropout1(y)

        def look(x):
            tokens = with_pos_embed(x, query_pos), with_pos_embed(memory, pos), memory
            return self.dropout2(self.multihead_attn(*tokens, memory_key_padding_mask, attn_mask=memory_mask)[0])

        def feed(x):
            return self.dropout3(self.feedforward(x))

        x = tgt
        if self.normalize_before:
            x = x + attend(self.norm1(x))
            x = x + look(self.norm2(x))
            return x + feed(self.norm3(x))
        x = self.norm1(x + attend(x))
        x = self.norm2(x + look(x))
        return self.norm3(x + feed(x))


class TransformerEncoder(nn.Module):
    def __init__(self, encoder_layer, num_layers, norm=None):
        super().__init__()
        self.layers = nn.ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.norm = norm

    def forward(self, src: Tensor, mask=None, src_key_padding_mask=None, pos=None) -> Tensor:
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, pos)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(nn.Module):
    def __init__(self, decoder_layer, num_layers, norm=None, return_intermediate=False):
        super().__init__()
        self.layers = nn.ModuleList([copy.deepcopy(decoder_layer) for _ in range(num_layers)])
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


class Transformer(nn.Module):
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
        arguments = (d_model, nhead, dim_feedforward, dropout, activation, normalize_before)
        encoder_layer = TransformerEncoderLayer(*arguments)
        encoder_norm = nn.LayerNorm(d_model) if normalize_before else None
        self.encoder = TransformerEncoder(encoder_layer, num_encoder_layers, encoder_norm)
        decoder_layer = TransformerDecoderLayer(*arguments)
        norm, intermediate = nn.LayerNorm(d_model), return_intermediate_dec
        self.decoder = TransformerDecoder(decoder_layer, num_decoder_layers, norm, intermediate)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.xavier_uniform_(p)

    def forward(self, src: Tensor, mask: Tensor, query_embed: Tensor, pos_embed: Tensor) -> tuple[Tensor, Tensor]:
        tokens, pos, mask = src.flatten(2).mT, pos_embed.flatten(2).mT, mask.flatten(1)
        query_pos = query_embed.expand(len(src), *query_embed.shape)
        memory = self.encoder(tokens, src_key_padding_mask=mask, pos=pos)
        tgt = torch.zeros_like(query_pos)
        found = self.decoder(tgt, memory, None, None, None, mask, pos, query_pos)
        return found, memory.mT.reshape(src.shape)


class MHAttentionMap(nn.Module):
    def __init__(self, query_dim, hidden_dim, num_heads, dropout=0.0, bias=True):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (hidden_dim / num_heads) ** -0.5
        self.q_linear = nn.Linear(query_dim, hidden_dim, bias)
        self.k_linear = nn.Linear(query_dim, hidden_dim, bias)
        self.dropout0 = nn.Dropout(dropout)
        for layer in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(layer.weight)
            if bias:
                nn.init.zeros_(layer.bias)

    def forward(self, q: Tensor, k: Tensor, mask=None) -> Tensor:
        queries = split_heads(self.q_linear(q), self.num_heads)
        keys = split_heads(self.k_linear(k.movedim(1, -1)), self.num_heads)
        logits = torch.einsum("nlad,nhwad->nlahw", queries * self.scale, keys)
        if mask is not None:
            logits = logits.masked_fill(mask[:, None, None], -torch.inf)
        weights = torch.softmax(logits.flatten(2), -1).reshape(logits.shape)
        return self.dropout0(weights)
