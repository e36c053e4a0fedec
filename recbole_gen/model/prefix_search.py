"""Which items a model that writes semantic IDs digit by digit finds likeliest, without a look at every prefix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from recbole_gen.model.prefix_tree import PrefixTree

FLOATS_OF_A_FRONT = 2**21
"""Numbers that a step of `items_of_at_least` may compute of its prefixes: it bounds the rows that take it together."""

Cache = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, one each of a place."""

Begun = tuple[list[Cache], torch.Tensor, torch.Tensor]
"""What a search begins with for B histories: keys and values of their memory for each layer, where it has nothing, and
what the decoder reads of the root, [B, 1, d]."""

Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Rows of a batch, an item of each, and its log p, [n] each."""


class WritesDigits(Protocol):
    """What a model has that is searched.

    Attributes:
        tree: the prefixes of its items' IDs.
        decoder: with `extend`, as of TIGER's `DigitDecoder`.
    """

    tree: PrefixTree
    decoder: Any

    def digit_log_p(self, depth: int, states: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        """log p of each value of the digit behind ``depth`` others, [..., size], of the decoder's states [..., d] at
        nodes [...]."""

    def read_digit(self, depth: int, digits: torch.Tensor) -> torch.Tensor:
        """What the decoder reads of digits [...] behind ``depth`` others: [..., d]."""


def beam_of_items(model: WritesDigits, begun: Begun, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The items whose prefixes were always among the ``size`` likeliest, and their log p: [B, n] each, the best first;
    item 0 with -inf where there are fewer."""
    tree, (memory, padding, x) = model.tree, begun
    scores, nodes = x.new_zeros(len(x), 1), model.tree.items.new_zeros(len(x), 1)
    seen: list[list[Cache]] = []
    for depth in range(tree.depth):
        states, own = model.decoder.extend(x, seen, memory, padding)
        log_p = model.digit_log_p(depth, states, nodes).masked_fill(~tree.exists(depth, nodes), -torch.inf)
        every = (scores.unsqueeze(-1) + log_p).flatten(1)
        scores, chosen = every.topk(min(size, every.shape[1], tree.width(depth + 1)), dim=1)
        parent, digits = chosen // tree.sizes[depth], chosen % tree.sizes[depth]
        nodes, _ = tree.next_nodes(depth, nodes.gather(1, parent), digits)
        if depth + 1 < tree.depth:
            rows = torch.arange(len(x), device=x.device).unsqueeze(1)
            seen = [_taken(layers, rows, parent) for layers in [*seen, own]]
            x = model.read_digit(depth, digits)
    return torch.where(scores != -torch.inf, tree.items[nodes], 0), scores


@dataclass
class Front:
    """Prefixes of one length that rows of a batch have come to.

    Attributes:
        rows: [R] which rows.
        nodes, scores: [R, N] nodes of the tree and their log p, -inf for none.
        x: [R, N, d] what the decoder reads of their last digits.
        seen: for each digit before, for each layer, its keys and values [R, N, heads, d / heads].
        memory, padding: as of `DigitDecoder.extend`, of these rows.
    """

    rows: torch.Tensor
    nodes: torch.Tensor
    scores: torch.Tensor
    x: torch.Tensor
    seen: list[list[Cache]]
    memory: list[Cache]
    padding: torch.Tensor


def items_of_at_least(model: WritesDigits, begun: Begun, least: torch.Tensor) -> Iterator[Found]:
    """All items whose log p is at least ``least``, [B], in no order.

    No item has more than its prefix, so prefixes with less are left, and at each depth there are at most 1 / p others.
    Rows with alike numbers of them take a step together; each goes down to its items before the next begins, so that
    few prefixes are held at a time.
    """
    memory, padding, x = begun
    root = model.tree.items.new_zeros(len(x), 1)
    rows = torch.arange(len(x), device=x.device)
    waiting = [(0, partial(Front, rows, root, x.new_zeros(len(x), 1), x, [], memory, padding))]
    while waiting:
        depth, form = waiting.pop()
        front = form()
        states, own = model.decoder.extend(front.x, front.seen, front.memory, front.padding)
        log_p = model.digit_log_p(depth, states, front.nodes)
        row, place, node, scores = _children(model, depth, front, log_p, least[front.rows])
        if depth + 1 == model.tree.depth:
            yield front.rows[row], model.tree.items[node], scores
            continue
        floats = model.tree.sizes[depth + 1] + (4 + 2 * (depth + 1) * len(memory)) * x.shape[-1]  # of a prefix
        numbers = torch.bincount(row, minlength=len(front.rows))
        at = torch.arange(len(row), device=row.device) - (numbers.cumsum(0) - numbers)[row]  # place in its row
        children = (row, at, place, node, scores)
        for some in _alike(numbers, FLOATS_OF_A_FRONT // floats):
            waiting.append((depth + 1, partial(_next_front, model, depth, front, own, some, children)))


def _children(
    model: WritesDigits, depth: int, front: Front, log_p: torch.Tensor, least: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the children of a front's prefixes those of at least ``least`` [R], row by row, [n] each: row and place of
    their parent in the front, their node and their log p."""
    first, number = model.tree.child_ranges(depth)
    row, place = (front.scores != -torch.inf).nonzero(as_tuple=True)
    node = front.nodes[row, place]
    count = number[node]
    parent = torch.repeat_interleave(torch.arange(len(node), device=node.device), count)
    row, place = row[parent], place[parent]
    node = (first[node] - count.cumsum(0) + count)[parent] + torch.arange(len(parent), device=node.device)
    digit = model.tree.last_digits(depth + 1)[node]
    scores = front.scores[row, place] + log_p[row, place, digit]
    kept = ~(scores < least[row])  # also what is not a number, which is to be seen
    return row[kept], place[kept], node[kept], scores[kept]


def _alike(numbers: torch.Tensor, most: int) -> list[torch.Tensor]:
    """Rows [R] in groups of alike numbers of prefixes, at most so many in each, or one row; those without are left."""
    order = numbers.argsort(descending=True, stable=True)
    ordered, groups, start = numbers[order].tolist(), list[torch.Tensor](), 0
    while start < len(ordered) and ordered[start]:
        stop = start + max(1, most // ordered[start])
        groups.append(order[start:stop])
        start = stop
    return groups


def _next_front(
    model: WritesDigits,
    depth: int,
    front: Front,
    own: list[Cache],
    some: torch.Tensor,
    children: tuple[torch.Tensor, ...],
) -> Front:
    """The children in ``some`` rows of a front as a front of their own.

    children: row, place in the next front's row, and place of the parent, node and log p as of `_children`, [n] each.
    """
    row, at, place, node, scores = children
    number_of = row.new_full((len(front.rows),), -1)
    number_of[some] = torch.arange(len(some), device=row.device)
    mine = number_of[row] >= 0
    shape, to = (len(some), 1 + int(at[mine].max())), (number_of[row[mine]], at[mine])
    nodes, parents = node.new_zeros(shape).index_put(to, node[mine]), place.new_zeros(shape).index_put(to, place[mine])
    values = scores.new_full(shape, -torch.inf).index_put(to, scores[mine])
    x = model.read_digit(depth, model.tree.last_digits(depth + 1)[nodes])
    seen = [_taken(layers, some.unsqueeze(1), parents) for layers in [*front.seen, own]]
    memory = [(keys[some], values_of[some]) for keys, values_of in front.memory]
    return Front(front.rows[some], nodes, values, x, seen, memory, front.padding[some])


def _taken(layers: list[Cache], rows: torch.Tensor, places: torch.Tensor) -> list[Cache]:
    """Keys and values of each layer at places [R, N] of rows [R, 1]."""
    return [(keys[rows, places], values[rows, places]) for keys, values in layers]
