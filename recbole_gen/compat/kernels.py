"""Layers of RecBole whose work torch does in one step, and work that nobody reads."""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F

from recbole_gen.model.dropout import attention, dropout


def use_fused_kernels(module: ModuleType) -> None:
    """model/layers.py computes GELU and attention in five and six steps that each keep a temporary for the backward
    pass. torch has both in one, with the same result (the random stream of attention dropout differs)."""

    def gelu(self, x):
        return F.gelu(x)

    def forward(self, input_tensor, attention_mask, queries=None):
        """Of ``queries`` [B, Q, d] only the output is wanted; None for all of ``input_tensor`` [B, L, d]."""
        queries = input_tensor if queries is None else queries
        dropout_rate = self.attn_dropout.p if self.training else 0.0
        if queries.shape[1] == 1 < input_tensor.shape[1]:
            context = attention_of_one(self, queries, input_tensor, attention_mask, dropout_rate)
            return self.LayerNorm(self.out_dropout(self.dense(context)) + queries)

        def split(tensor):
            return tensor.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)

        context = attention(
            split(self.query(queries)),
            split(self.key(input_tensor)),
            split(self.value(input_tensor)),
            attention_mask,
            dropout_rate,
        )
        out = self.out_dropout(self.dense(context.transpose(1, 2).flatten(2)))
        return self.LayerNorm(out + queries)

    module.FeedForward.gelu = gelu
    module.MultiHeadAttention.forward = forward


def attention_of_one(
    layer, query: torch.Tensor, x: torch.Tensor, mask: torch.Tensor | None, dropout_rate: float
) -> torch.Tensor:
    """What one query [B, 1, d] a row reads from x [B, L, d] in RecBole's attention, [B, 1, d].

    With one query, keys and values need not be computed at every position: q (W x) is (q W) x, and a sum of W x is W
    times the sum of x.
    """
    heads, d = layer.num_attention_heads, x.shape[-1]
    q = layer.query(query).view(len(x), heads, -1) * layer.attention_head_size**-0.5
    w_k, b_k = layer.key.weight.view(heads, -1, d), layer.key.bias.view(heads, -1)
    into_x = torch.bmm(q.transpose(0, 1), w_k).transpose(0, 1)  # [B, heads, d]
    scores = into_x @ x.transpose(1, 2) + (q * b_k).sum(-1, keepdim=True)  # [B, heads, L]
    if mask is not None:
        mask = mask.squeeze(2)
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = dropout(scores.softmax(-1), dropout_rate, True)
    w_v, b_v = layer.value.weight.view(heads, -1, d), layer.value.bias.view(heads, -1)
    read = torch.bmm((weights @ x).transpose(0, 1), w_v.transpose(1, 2)).transpose(0, 1)  # [B, heads, d / heads]
    return (read + weights.sum(-1, keepdim=True) * b_v).flatten(1).unsqueeze(1)


def let_sasrec_finish_the_last_position_only(module: ModuleType) -> None:
    """sasrec.py:124-127 runs the last layer on every position and then reads the last one: two fifths of the work."""

    def forward(self, item_seq, item_seq_len):
        positions = self.position_embedding.weight[: item_seq.shape[1]]
        x = self.dropout(self.LayerNorm(self.item_embedding(item_seq) + positions))  # [B, L, d]
        mask = self.get_attention_mask(item_seq)  # [B, 1, L, L]
        *lower, top = self.trm_encoder.layer
        for layer in lower:
            x = layer(x, mask)
        rows, last = torch.arange(len(x), device=x.device), item_seq_len - 1
        attended = top.multi_head_attention(x, mask[rows, :, last].unsqueeze(2), queries=x[rows, last].unsqueeze(1))
        return top.feed_forward(attended).squeeze(1)  # [B, d]

    module.SASRec.forward_by_gathering = module.SASRec.forward
    module.SASRec.forward = forward
