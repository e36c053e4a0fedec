"""Layers of RecBole whose work torch does in one step, and work that nobody reads."""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F

from recbole_gen.model.dropout import attention


def use_fused_kernels(module: ModuleType) -> None:
    """model/layers.py computes GELU and attention in five and six steps that each keep a temporary for the backward
    pass. torch has both in one, with the same result (the random stream of attention dropout differs)."""

    def gelu(self, x):
        return F.gelu(x)

    def forward(self, input_tensor, attention_mask, queries=None):
        """Of ``queries`` [B, Q, d] only the output is wanted; None for all of ``input_tensor`` [B, L, d]."""
        queries = input_tensor if queries is None else queries

        def split(tensor):
            return tensor.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)

        context = attention(
            split(self.query(queries)),
            split(self.key(input_tensor)),
            split(self.value(input_tensor)),
            attention_mask,
            self.attn_dropout.p if self.training else 0.0,
        )
        out = self.out_dropout(self.dense(context.transpose(1, 2).flatten(2)))
        return self.LayerNorm(out + queries)

    module.FeedForward.gelu = gelu
    module.MultiHeadAttention.forward = forward


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
