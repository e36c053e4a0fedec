"""A model's item table filled with vectors from elsewhere: as its start, held fixed, or read through a learned map."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_gen.errors import UserError


def item_table_name(model: nn.Module) -> str:
    """The attribute with the item table. Raises UserError for a model without one, such as FPMC, which has several."""
    name = getattr(model, "item_vectors_name", None) or "item_embedding"
    if hasattr(model, "semantic_ids"):
        raise UserError(
            f"item_vectors: {type(model).__name__} has no table of item vectors, it reads semantic IDs: `tokenize "
            f"--item_vectors=FILE --output=FOLDER` makes IDs of the vectors, for --semantic_ids=FOLDER"
        )
    if not isinstance(getattr(model, name, None), (nn.Embedding, AdaptedVectors)):
        raise UserError(
            f"item_vectors: {type(model).__name__} has no table of item vectors that they could be put into (an "
            f"nn.Embedding in the attribute item_embedding, or the one that its class names as item_vectors_name)"
        )
    return name


def output_layer(model: nn.Module, n_items: int) -> str | None:
    """The weights of a layer that scores the items, such as output.weight, where they are not the item table."""
    table = getattr(model, item_table_name(model))
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and layer.out_features == n_items and layer.weight is not table.weight:
            return f"{name}.weight"
    return None


def item_bias(model: nn.Module, n_items: int) -> str | None:
    """The learned numbers of which each item has one, such as output.bias; None if there are none."""
    found = (name for name, each in model.named_parameters() if each.requires_grad and each.shape == (n_items,))
    return next(found, None)


class AdaptedVectors(nn.Module):
    """Stands for an `nn.Embedding` whose rows are a learned linear map of given vectors.

    Padding, and rows behind those of the items, as that of a [MASK], are what they were in the table that it replaces.

    Attributes:
        given: [n_items, width], not learned; kept with the weights.
    """

    given: torch.Tensor
    padding: torch.Tensor

    def __init__(self, given: torch.Tensor, table: nn.Embedding):
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        self.register_buffer("given", given)
        self.register_buffer("padding", table.weight[:1].detach().clone())
        self.adaptor = nn.Linear(given.shape[1], table.embedding_dim)
        self.behind = nn.Parameter(table.weight[len(given) :].detach().clone())
        with torch.no_grad():  # it begins with the spread that the model would have drawn
            drawn, now = table.weight[1 : len(given)].std(), self.adaptor(given[1:]).std()
            if now > 0:
                self.adaptor.weight.mul_(drawn / now)
                self.adaptor.bias.mul_(drawn / now)

    @property
    def weight(self) -> torch.Tensor:
        """The whole table, [num_embeddings, embedding_dim]."""
        return torch.cat([self.padding, self.adaptor(self.given[1:]), self.behind])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors of items of any shape: [..., embedding_dim]."""
        if len(self.behind):
            return F.embedding(ids, self.weight)
        return torch.where((ids == 0).unsqueeze(-1), self.padding[0], self.adaptor(F.embedding(ids, self.given)))


def place_item_vectors(model: nn.Module, given: torch.Tensor, known: torch.Tensor, use: str) -> None:
    """Fill the item table of a model that has just been built.

    Vectors of a history's own (`history_vectors: own` of PASRec) begin there, too, where they are as wide, and learn.

    Args:
        given: [n_items, width], padding first.
        known: [n_items] bool: items that have a vector; to the others goes the mean of all, but with "init", where
            they keep what was drawn.
        use: init, frozen or adaptor, as of the key `item_vectors_use`. Rows behind those of the items, as that of a
            [MASK], stay as they were drawn where the table is frozen.

    Raises UserError for a model without an item table, and for vectors of another width, which only "adaptor" takes.
    """
    name = item_table_name(model)
    table: Any = getattr(model, name)
    if use != "init":
        given = torch.where(known.unsqueeze(1), given, given[known].mean(0))
    if use == "adaptor":
        _adapt(model, name, given)
        return
    width, size = given.shape[1], table.embedding_dim
    if width != size:
        raise UserError(
            f"item_vectors are {width} wide, and the table {name} of {type(model).__name__} is {size} wide: "
            f"--item_vectors_use=adaptor learns a map between them, or give the model vectors of {width}"
        )
    rows = known.nonzero().squeeze(1) if use == "init" else torch.arange(1, len(given))
    with torch.no_grad():
        table.weight[rows] = given[rows].to(table.weight)
        own = getattr(model, "history_embedding", None)
        if isinstance(own, nn.Embedding) and own.embedding_dim == width:
            own.weight[rows] = given[rows].to(own.weight)
    table.weight.requires_grad_(use == "init")


def _adapt(model: nn.Module, name: str, given: torch.Tensor) -> None:
    table: Any = getattr(model, name)
    shared = [other for other, each in model.named_parameters(remove_duplicate=False) if each is table.weight]
    if len(shared) > 1:
        raise UserError(
            f"item_vectors_use: adaptor cannot replace {name} of {type(model).__name__}, which is also "
            f"{shared[1]}: give each a table of its own (DiffRec: --tie_weights=false), or use frozen"
        )
    setattr(model, name, AdaptedVectors(given, table))


def expect_adapted_vectors(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Make the item table one that weights with an adaptor can be loaded into, whatever file they came from."""
    name = item_table_name(model)
    given = state_dict.get(f"{name}.given")
    if isinstance(given, torch.Tensor) and given.dim() == 2 and len(given) > 1:
        _adapt(model, name, torch.zeros_like(given))
