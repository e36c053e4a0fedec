"""The tree of the prefixes of all items' semantic IDs: what a model that generates IDs digit by digit can come to."""

from __future__ import annotations

import torch
from torch import nn

MOST_CELLS = 2**25
"""Nodes times values of the next digit of which a table says which there are; of more, it is looked up."""


class PrefixTree(nn.Module):
    """Nodes by depth, 0 for the root to D for whole IDs; those of a depth in the order of their digits.

    Nothing in it is learned or saved: it follows from the IDs.

    Attributes:
        depth: D, digits of an ID.
        sizes: how many values each digit has, by depth.
    """

    def __init__(self, digits: torch.Tensor):
        """digits: [n_items, D] int64, at least 0, all different but for row 0, padding, which is no item."""
        super().__init__()
        self.depth = digits.shape[1]
        self.sizes = [int(column.max()) + 1 for column in digits[1:].T]
        ordered = digits[1:]
        order = torch.arange(len(ordered), device=digits.device)
        for column in range(self.depth - 1, -1, -1):  # the last digit first: each sort keeps the order of those before
            order = order[ordered[order, column].argsort(stable=True)]
        ordered = ordered[order]
        nodes = ordered.new_zeros(len(ordered))  # of each ID, at the depth that is reached
        self._add("item", self.depth, order + 1)
        for depth in range(1, self.depth + 1):
            keys = nodes * self.sizes[depth - 1] + ordered[:, depth - 1]
            kept, nodes = torch.unique_consecutive(keys, return_inverse=True)
            self._add("key", depth, kept)
            cells = self.width(depth - 1) * self.sizes[depth - 1]
            exists = torch.zeros(cells if cells <= MOST_CELLS else 0, dtype=torch.bool, device=digits.device)
            self._add("exists", depth, exists.index_fill(0, kept, True) if len(exists) else exists)
            number = torch.bincount(self.parents(depth), minlength=self.width(depth - 1))
            self._add("number", depth, number)
            self._add("first", depth, number.cumsum(0) - number)
            self._add("of_item", depth, nodes.new_zeros(len(digits)).index_put((order + 1,), nodes))

    def _add(self, name: str, depth: int, values: torch.Tensor) -> None:
        self.register_buffer(f"_{name}_{depth}", values, persistent=False)

    def _keys(self, depth: int) -> torch.Tensor:
        """Of the nodes at a depth, ascending: parent * size of the digit + digit, [n]."""
        return getattr(self, f"_key_{depth}")

    @property
    def items(self) -> torch.Tensor:
        """Which item each node at depth D is, [n_items - 1]."""
        return getattr(self, f"_item_{self.depth}")

    def width(self, depth: int) -> int:
        """Nodes at a depth."""
        return len(self._keys(depth)) if depth else 1

    def parents(self, depth: int) -> torch.Tensor:
        """Of the nodes at a depth of at least 1, among those above, [n], ascending."""
        return self._keys(depth) // self.sizes[depth - 1]

    def last_digits(self, depth: int) -> torch.Tensor:
        """Of the nodes at a depth of at least 1, [n]."""
        return self._keys(depth) % self.sizes[depth - 1]

    def nodes_of_items(self, depth: int, items: torch.Tensor) -> torch.Tensor:
        """Of the IDs of items [...], the nodes that they have at a depth: [...]."""
        return getattr(self, f"_of_item_{depth}")[items] if depth else torch.zeros_like(items)

    def example_items(self, depth: int) -> torch.Tensor:
        """An item whose ID begins so, of each node at a depth: [n]."""
        nodes = self.nodes_of_items(depth, self.items)  # ascending: the items are in the order of their digits
        return self.items[torch.searchsorted(nodes, torch.arange(self.width(depth), device=nodes.device))]

    def child_ranges(self, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the nodes at a depth, the first one below that comes of each, and how many do, one behind the other: [n]
        each."""
        return getattr(self, f"_first_{depth + 1}"), getattr(self, f"_number_{depth + 1}")

    def exists(self, depth: int, nodes: torch.Tensor) -> torch.Tensor:
        """Whether some item's ID goes on with each value of the next digit, [..., size] of nodes [...] at ``depth``."""
        size, table = self.sizes[depth], getattr(self, f"_exists_{depth + 1}")
        if len(table):
            return table.view(-1, size)[nodes]
        return self.next_nodes(depth, nodes.unsqueeze(-1), torch.arange(size, device=nodes.device))[1]

    def next_nodes(self, depth: int, nodes: torch.Tensor, digits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which nodes of the depth below come of nodes [...] at ``depth`` by a next digit [...], and whether there is
        such a node; where there is none, the node is another."""
        wanted, keys = nodes * self.sizes[depth] + digits, self._keys(depth + 1)
        found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return found, keys[found] == wanted
