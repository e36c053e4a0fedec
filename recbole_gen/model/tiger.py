"""TIGER: Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023.

An item is its semantic ID, a few digits whose first ones it shares with items that are like it. A Transformer reads the
digits of the history, and another one writes those of the next item, one by one. Nothing in it belongs to one item
alone.

    paper                      here               meaning
    (c_{i,0}, ..., c_{i,m-1})  semantic_ids       the ID of item i, digits; its last one tells equal IDs apart
    m                          tree.depth         digits of an ID, 4 there
    codebook of level d        tree.sizes         values of each digit, 256 there
    -                          tree               all prefixes of IDs: what can be generated

    log p(i | history) = sum over d of log p(c_{i,d} | history, c_{i,0}, ..., c_{i,d-1})

The loss is minus that of the target, divided by m (section 3.2 trains on the next item's digits by teacher forcing).
`full_sort_predict` gives it for every item: the decoder is run once for each prefix that any item has, for all users of
a batch together, not once an item. With `exact_top` it leaves out prefixes that cannot lead to one of so many best
items, whose ranking is exact all the same. With `beam_size` it follows only so many prefixes, and ranks what it ends
with, as the paper does; there a beam may generate IDs of no item, here each step goes to prefixes of items only. Either
way a list has no items that were not come to. `predict`, and so a ranking of sampled items, is always exact.

Where the IDs come from: `semantic_ids` names a file, such as `tokenize` writes; without one they are made of the
training rows, of which items come near each other in them (data/semantic_ids.py). Those of the paper are from texts.

Differences from the paper
    - No token for the user, which it hashes into 2,000: a history has the same scores whoever's it is.
    - Layers are torch's: LayerNorm before each part, biases, positions that are learned; there T5X's, with relative
      positions. Heads divide `hidden_size` (128 in 4 heads of 32); there 6 heads of 64 in a model of 128. No dropout of
      attention weights.
    - A digit of the history is its vector and that of its item's place, counted from the latest item. The place of a
      digit within its ID needs none: each level has vectors of its own.
    - The softmax is over the values of the digit that is due, not over all tokens: those of other digits never follow.
      `digit_softmax: existing` leaves out those, too, with which no item's ID goes on: what IDs there are need not be
      learned, and the probabilities of all items sum to 1.
    - AdamW; there the learning rate is 0.01 for 10,000 steps, and falls with the root of the steps after that.

`train_pairs: positions` learns all targets of a window at once (`causal: True`, `positions_from: start`): each event of
it is read once, and each target's digits attend to what came before the target. The paper's encoder reads a history in
both directions (`causal: False`), so that every target needs a reading of its own.

Written from the paper; code of others was not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, starmap
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_gen.model.alike_lengths import encode_by_length, used_lengths
from recbole_gen.model.layers import NOT_FOUND, one_of
from recbole_gen.model.positions import NEXT, states_and_targets
from recbole_gen.model.prefix_search import Begun, Cache, beam_of_items, items_of_at_least
from recbole_gen.model.prefix_tree import PrefixTree

FLOATS = 2**25
"""Numbers that may be kept of all prefixes for one step's histories, which bounds their number."""
FLOATS_OF_A_STEP = 2**21
"""Numbers that one layer may compute at a time, which bounds the prefixes of a step."""
WIDER = 2
"""How many times as wide as `exact_top` the beam is that says what the best items have at least."""
ROUNDING = 1e-4
"""By which the same log p may differ from one pass to another."""


class DigitDecoder(nn.Module):
    """torch's Transformer decoder, read in two ways: at all digits of one ID, or at prefixes that share their begin."""

    def __init__(self, size: int, n_layers: int, n_heads: int, inner_size: int, dropout: float):
        super().__init__()
        layer = nn.TransformerDecoderLayer(size, n_heads, inner_size, dropout, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(size)
        self.stack = nn.TransformerDecoder(layer, n_layers)
        self.n_heads = n_heads

    def forward(self, x: torch.Tensor, memory: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """Digits so far x [B, m, d] to states [B, m, d], each of those up to it.

        memory: [B, S, d]; padding: [B, S], True where it has nothing.
        """
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        states = self.stack(x, memory, tgt_mask=later, tgt_is_causal=True, memory_key_padding_mask=padding)
        return self.norm(states)

    def at_positions(self, x: torch.Tensor, memory: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
        """As `forward` for several IDs behind each memory: x [B, P, m, d] to states [B, P, m, d].

        memory: [B, S, d]; sees: [P, S], True where an ID reads it.
        """
        n_places, m = x.shape[1:3]
        sees = sees.repeat_interleave(m, dim=0)
        for layer, (memory_keys, memory_values) in zip(self.layers, self.memory_keys(memory)):
            query, key, value = (
                self._heads(F.linear(layer.norm1(x), *part)).flatten(0, 1).transpose(1, 2)
                for part in self._projections(layer.self_attn)
            )
            read = F.scaled_dot_product_attention(query, key, value, is_causal=True)  # [B P, heads, m, d / heads]
            read = read.transpose(1, 2).flatten(2).unflatten(0, (-1, n_places))
            x = x + layer.dropout1(layer.self_attn.out_proj(read))
            query = F.linear(layer.norm2(x), *self._projections(layer.multihead_attn)[0])
            query = self._heads(query).flatten(1, 2).transpose(1, 2)  # [B, heads, P m, d / heads]
            read = F.scaled_dot_product_attention(query, memory_keys, memory_values, attn_mask=sees)
            read = read.transpose(1, 2).flatten(2).unflatten(1, (n_places, m))
            x = x + layer.dropout2(layer.multihead_attn.out_proj(read))
            inner = layer.dropout(layer.activation(layer.linear1(layer.norm3(x))))
            x = x + layer.dropout3(layer.linear2(inner))
        return self.norm(x)

    def memory_keys(self, memory: torch.Tensor) -> list[Cache]:
        """Keys and values of the memory for each layer, [B, heads, S, d / heads] each."""
        found = []
        for layer in self.layers:
            _, key, value = self._projections(layer.multihead_attn)
            keys, values = self._heads(F.linear(memory, *key)), self._heads(F.linear(memory, *value))
            found.append((keys.transpose(1, 2), values.transpose(1, 2)))
        return found

    def extend(
        self,
        x: torch.Tensor,
        before: list[list[Cache]],
        memory_keys: list[Cache],
        padding: torch.Tensor,
    ) -> tuple[torch.Tensor, list[Cache]]:
        """States of prefixes that are one digit longer.

        Args:
            x: [B, N, d] their last digits.
            before: for each digit before, for each layer, its keys and values [B, N, heads, d / heads].
            memory_keys: see `memory_keys`.

        Returns the states [B, N, d], and keys and values of ``x`` for each layer.
        """
        own = []
        hidden = ~padding[:, None, None, :]
        for number, layer in enumerate(self.layers):
            query, key, value = (
                self._heads(F.linear(layer.norm1(x), *part)) for part in self._projections(layer.self_attn)
            )
            own.append((key, value))
            keys, values = zip(*(place[number] for place in before), (key, value))
            scores = torch.stack([(query * each).sum(-1) for each in keys]) * query.shape[-1] ** -0.5
            read = sum(weight.unsqueeze(-1) * each for weight, each in zip(scores.softmax(0), values))
            x = x + layer.self_attn.out_proj(read.flatten(2))
            query = self._heads(F.linear(layer.norm2(x), *self._projections(layer.multihead_attn)[0])).transpose(1, 2)
            read = F.scaled_dot_product_attention(query, *memory_keys[number], attn_mask=hidden)
            x = x + layer.multihead_attn.out_proj(read.transpose(1, 2).flatten(2))
            x = x + layer.linear2(layer.activation(layer.linear1(layer.norm3(x))))
        return self.norm(x), own

    @property
    def layers(self) -> list[Any]:
        """torch's, in order."""
        return list(self.stack.layers)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.n_heads, -1))

    @staticmethod
    def _projections(attention: nn.MultiheadAttention) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weight and bias of queries, keys and values."""
        return list(zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)))


class TIGER(SequentialRecommender):
    """The paper's section 3.2; every size and switch is described in properties/model/TIGER.yaml."""

    input_type = InputType.POINTWISE

    semantic_ids: torch.Tensor

    @staticmethod
    def needs_semantic_ids(config) -> bool:
        """Whether the data set must have `semantic_ids`: always."""
        return True

    @staticmethod
    def why_no_positions(config) -> str | None:
        """Why a setting cannot train on every position of a window at once, or None."""
        if not config["causal"]:
            return "its encoder reads a history in both directions (causal: False). Add --causal=True"
        if config["positions_from"] != "start":
            return (
                "places are counted from the latest item of a history (positions_from: end), and each target of a "
                "window ends another one. Add --positions_from=start"
            )
        return None

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        d, dropout, heads = config["hidden_size"], config["dropout_prob"], config["n_heads"]
        self.beam_size, self.exact_top = config["beam_size"], config["exact_top"]
        self.causal, self.from_end = config["causal"], one_of(config, "positions_from", ("end", "start")) == "end"
        self.knows_ids = one_of(config, "digit_softmax", ("all", "existing")) == "existing"
        self.has_own_ids = not config["semantic_ids"]
        self.register_buffer("semantic_ids", dataset.semantic_ids.clone())
        self.tree = PrefixTree(self.semantic_ids)
        sizes = self.tree.sizes
        # Token 0 begins both a history and an ID; behind it the values of each digit in turn.
        self.register_buffer("first_token", torch.tensor([1, *sizes[:-1]]).cumsum(0), persistent=False)
        self.token_embedding = nn.Embedding(1 + sum(sizes), d)
        self.place_embedding = nn.Embedding(self.max_seq_length, d)
        self.digit_embedding = nn.Embedding(self.tree.depth, d)
        layer = nn.TransformerEncoderLayer(d, heads, config["inner_size"], dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(
            layer, config["n_encoder_layers"], nn.LayerNorm(d), enable_nested_tensor=False
        )
        self.decoder = DigitDecoder(d, config["n_decoder_layers"], heads, config["inner_size"], dropout)
        self.outputs = nn.ModuleList(nn.Linear(d, size) for size in sizes)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0  # torch has a fast kernel without it only
        for table in (self.token_embedding, self.place_embedding, self.digit_embedding):
            nn.init.normal_(table.weight, std=0.02)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, errors):
        stored = state_dict.get(prefix + "semantic_ids")
        fits = isinstance(stored, torch.Tensor) and stored.shape == self.semantic_ids.shape
        if fits and not torch.equal(stored.to(self.semantic_ids), self.semantic_ids):
            tree = PrefixTree(stored.to(self.semantic_ids))
            # IDs made here follow from sums, which other threads and machines round otherwise: those of the run count.
            if self.has_own_ids and tree.sizes == self.tree.sizes:
                self.tree = tree
            else:
                errors.append(f"{prefix}semantic_ids are others than those of the items now (the key semantic_ids)")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, errors)

    # From histories to a memory

    def tokens(self, items: torch.Tensor) -> torch.Tensor:
        """Numbers in the token table of the digits of items [...]: [..., m]."""
        return self.semantic_ids[items] + self.first_token

    def read_history(self, item_seq: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Histories [B, L] with their lengths [B] to the memory [B, 1 + m L, d], and where it has nothing, as bool."""
        m, width = self.tree.depth, item_seq.shape[1]
        begin = item_seq.new_zeros(len(item_seq), 1)
        x = self.token_embedding(torch.cat([begin, self.tokens(item_seq).flatten(1)], 1))
        place = torch.arange(width, device=item_seq.device)
        if self.from_end:
            place = (length.unsqueeze(1) - 1 - place).clamp(min=0)
        places = self.place_embedding(place).repeat_interleave(m, dim=-2)
        x = self.dropout(torch.cat([x[:, :1], x[:, 1:] + places], 1))
        padding = torch.cat([begin > 0, (item_seq == 0).repeat_interleave(m, dim=1)], 1)
        if self.causal:  # padding is behind what there is, and so is not seen by it
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
            return self.encoder(x, mask=later, is_causal=True), padding
        return self.encoder(x, src_key_padding_mask=padding), padding

    # Training

    def calculate_loss(self, interaction) -> torch.Tensor:
        """Cross-entropy of the target's digits, averaged over them: a number."""
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        others = [length, interaction[self.POS_ITEM_ID]]
        log_p = encode_by_length(self.target_log_probability, used_lengths(item_seq), [item_seq], others)
        return -log_p.mean() / self.tree.depth

    def target_log_probability(self, item_seq: torch.Tensor, length: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """log p of an item [B] for each history [B, L]: [B]."""
        memory, padding = self.read_history(item_seq, length)
        return self._log_p(self.decoder(self._written(item), memory, padding), item)

    def calculate_positions_loss(self, interaction) -> torch.Tensor:
        """As `calculate_loss` over all targets of a batch of windows, each behind what came before it: a number."""
        following = NEXT + self.ITEM_SEQ
        states, item = states_and_targets(self, interaction, self._states_at_positions, self.ITEM_SEQ, following)
        return -self._log_p(states, item).mean() / self.tree.depth

    def _states_at_positions(self, length: torch.Tensor, item_seq: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Of the digits of the item [W, L] behind each event of windows [W, L]: [W, L, m, d]."""
        memory, _ = self.read_history(item_seq, length)
        last = torch.arange(1, item.shape[1] + 1, device=item.device) * self.tree.depth
        sees = torch.arange(memory.shape[1], device=item.device) <= last.unsqueeze(1)
        return self.decoder.at_positions(self._written(item), memory, sees)

    def _written(self, item: torch.Tensor) -> torch.Tensor:
        """What the decoder reads to write the digits of items [...]: those before each, [..., m, d]."""
        tokens = self.tokens(item)
        before = torch.cat([torch.zeros_like(tokens[..., :1]), tokens[..., :-1]], -1)
        return self.dropout(self.token_embedding(before) + self.digit_embedding.weight)

    def _log_p(self, states: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """log p of items [B], of the states [B, m, d] of their digits: [B]."""
        digits = self.semantic_ids[item]
        by_digit = [
            -F.nll_loss(
                self.digit_log_p(depth, states[:, depth], self.tree.nodes_of_items(depth, item)),
                digits[:, depth],
                reduction="none",
            )
            for depth in range(self.tree.depth)
        ]
        return torch.stack(by_digit).sum(0)

    def digit_log_p(self, depth: int, states: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        """log p of each value of the digit behind ``depth`` others, [..., size], of the decoder's states [..., d] at
        nodes [...] of the tree."""
        scores = self.outputs[depth](states)
        if self.knows_ids:
            scores = scores.masked_fill(~self.tree.exists(depth, nodes), -torch.inf)
        return scores.log_softmax(-1)

    # Ranking

    @torch.no_grad()  # what a gradient would need of all prefixes is more than memory has
    def full_sort_predict(self, interaction) -> torch.Tensor:
        """log p of every item, [B, n_items]; `NOT_FOUND` of what `exact_top` or `beam_size` have not come to."""
        if not self.beam_size and not self.exact_top:
            all_items = torch.arange(self.n_items, device=self.semantic_ids.device)
            return self._rank(partial(self.walk, tree=self.tree, items=all_items), interaction, self.tree)
        rank = self.rank_beam if self.beam_size else self.rank_best
        return self._rank(rank, interaction, self.tree, self.beam_size or WIDER * self.exact_top)

    @torch.no_grad()
    def score_items(self, interaction, items: torch.Tensor) -> torch.Tensor:
        """log p of different items [n] alone, [B, n], by a walk over their prefixes: exact, whatever the ranking of all
        is."""
        items = F.pad(items, (1, 0))
        tree = PrefixTree(self.semantic_ids[items])
        return self._rank(partial(self.walk, tree=tree, items=items), interaction, tree)[:, 1:]

    def _rank(self, rank: Callable[..., torch.Tensor], interaction, tree: PrefixTree, beam: int = 0) -> torch.Tensor:
        """What ``rank`` gives for the histories, as many at a time as fit."""
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        most_rows = max(1, FLOATS // self._floats_of_a_row(tree, beam))
        return encode_by_length(rank, used_lengths(item_seq), [item_seq], [length], most_rows=most_rows)

    def _floats_of_a_row(self, tree: PrefixTree, beam: int) -> int:
        """What ranking for one history may hold: scores of the digits behind prefixes, or keys and values of those that
        others build on."""
        of_prefix = 2 * self.token_embedding.embedding_dim * len(self.decoder.layers)
        if beam:
            return min(beam, tree.width(tree.depth)) * (max(tree.sizes) + of_prefix * tree.depth)
        widths = [tree.width(depth) for depth in range(tree.depth + 1)]
        return sum(widths[: tree.depth - 1]) * of_prefix + widths[-1]

    def predict(self, interaction) -> torch.Tensor:
        """log p of the rows' own items, [B]: exact, also with `beam_size`."""
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        others = [length, interaction[self.ITEM_ID]]
        return encode_by_length(self.target_log_probability, used_lengths(item_seq), [item_seq], others)

    def walk(self, item_seq: torch.Tensor, length: torch.Tensor, tree: PrefixTree, items: torch.Tensor) -> torch.Tensor:
        """log p of the items [n] of which a tree was made, padding first, [B, n]; by one walk of it from the root down,
        a depth at a time."""
        memory, padding, x = self._begin(item_seq, length)
        scores = x.new_zeros(len(x), 1)
        seen: list[list[Cache]] = []  # for each depth above, for each layer, keys and values of its nodes
        above: list[torch.Tensor] = []  # for each depth above, which node of it each node comes from
        for depth in range(tree.depth):
            parents, digits = tree.parents(depth + 1), tree.last_digits(depth + 1)
            of_all = self.tree.nodes_of_items(depth, items[tree.example_items(depth)])
            parts, own_parts = [], []
            for nodes, children in self._slices(depth, tree.width(depth), parents, len(x)):
                before = [
                    [(key[:, at[nodes]], value[:, at[nodes]]) for key, value in layers]
                    for layers, at in zip(seen, above)
                ]
                states, own = self.decoder.extend(x[:, nodes], before, memory, padding)
                log_p = self.digit_log_p(depth, states, of_all[nodes])
                parts.append(log_p[:, parents[children] - nodes.start, digits[children]])
                if depth + 1 < tree.depth:  # nothing builds on the last ones
                    own_parts.append(own)
            scores = scores[:, parents] + torch.cat(parts, 1)
            if depth + 1 < tree.depth:
                seen.append([_joined(parts_of_layer) for parts_of_layer in zip(*own_parts)])
                above = [at[parents] for at in above] + [parents]
                x = self.read_digit(depth, digits).expand(len(x), -1, -1)
        ranked = scores.new_full((len(scores), len(items)), -torch.inf)
        ranked[:, tree.items] = scores
        return ranked

    def _slices(self, depth: int, width: int, parents: torch.Tensor, n_rows: int) -> list[tuple[slice, slice]]:
        """Nodes of a depth, as many as fit, and their children, of which ``parents`` are the parents."""
        largest = max(self.tree.sizes[depth], self.decoder.layers[0].linear1.out_features)
        step = max(1, FLOATS_OF_A_STEP // (n_rows * largest))
        begins = [*range(0, width, step), width]
        of_children = torch.searchsorted(parents, torch.tensor(begins, device=parents.device)).tolist()
        return list(zip(starmap(slice, pairwise(begins)), starmap(slice, pairwise(of_children))))

    def rank_beam(self, item_seq: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """log p of the items that a beam of `beam_size` ends with, [B, n_items]; `NOT_FOUND` for the others."""
        items, scores = self.beam_search(item_seq, length, self.beam_size)
        return self._none_found(scores).scatter(1, items, scores)

    def rank_best(self, item_seq: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """log p of at least the `exact_top` best items, [B, n_items]; `NOT_FOUND` for others.

        What a beam finds says how likely an item must be to be among them: the more, the better a beam it is.
        """
        begun = self._begin(item_seq, length)
        _, scores = beam_of_items(self, begun, WIDER * self.exact_top)
        ranked = self._none_found(scores)
        least = scores[:, min(self.exact_top, scores.shape[1]) - 1] - ROUNDING
        for rows, items, log_p in items_of_at_least(self, begun, least):
            ranked[rows, items] = log_p
        return ranked

    def _none_found(self, scores: torch.Tensor) -> torch.Tensor:
        ranked = scores.new_full((len(scores), self.n_items), NOT_FOUND)
        ranked[:, 0] = -torch.inf
        return ranked

    def beam_search(self, item_seq: torch.Tensor, length: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `beam_of_items`, for histories [B, L] with their lengths [B]."""
        return beam_of_items(self, self._begin(item_seq, length), size)

    def _begin(self, item_seq: torch.Tensor, length: torch.Tensor) -> Begun:
        """Keys of the memory, where it has nothing, and the root [B, 1, d]."""
        memory, padding = self.read_history(item_seq, length)
        root = self.token_embedding.weight[0] + self.digit_embedding.weight[0]
        return self.decoder.memory_keys(memory), padding, root.expand(len(memory), 1, -1)

    def read_digit(self, depth: int, digits: torch.Tensor) -> torch.Tensor:
        """What the decoder reads of digits [...] behind ``depth`` others, to give the next: [..., d]."""
        return self.token_embedding(digits + self.first_token[depth]) + self.digit_embedding.weight[depth + 1]


def _joined(parts: Sequence[Cache]) -> Cache:
    """Keys and values of all places, of those of parts of them."""
    keys, values = zip(*parts)
    return torch.cat(keys, 1), torch.cat(values, 1)
