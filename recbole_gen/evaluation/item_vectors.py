"""The vectors of a model's items, wherever it keeps them."""

from __future__ import annotations

from typing import Any

import torch

from recbole_gen.errors import UserError


def item_vectors(model: torch.nn.Module, n_items: int) -> torch.Tensor | None:
    """One vector an item, padding first, [n_items, d], detached; None for a model that has none.

    They are the table in the attribute that the model's class names, ``item_vectors_name = "my_table"``; else what the
    method `item_vectors()` returns, if the model has it; else the table in `item_embedding`, where most of RecBole's
    models have it. A table is an `nn.Embedding` or a matrix; rows behind those of the items, as that of a [MASK], are
    left out.

    Raises UserError if what the class names is no table of so many items.
    """
    method: Any = getattr(model, "item_vectors", None)
    name = getattr(model, "item_vectors_name", None)
    uses_method = callable(method) and not name
    if uses_method:
        with torch.no_grad():
            table = method()
    else:
        table = getattr(model, name or "item_embedding", None)
    if isinstance(table, torch.nn.Module):
        table = getattr(table, "weight", None)  # of an nn.Embedding, or of what stands for one
    if isinstance(table, torch.Tensor) and table.dim() == 2 and len(table) >= n_items:
        return table.detach()[:n_items]
    if uses_method or name:
        says = "item_vectors() returns" if uses_method else f"item_vectors_name is '{name}', which is"
        raise UserError(f"{type(model).__name__}: {says} no table with a vector for each of {n_items} items")
    return None
