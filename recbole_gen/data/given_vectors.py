"""The keys `item_vectors`: vectors of a file, by the names of a data set's items, into a model's table."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from recbole_gen import distributed
from recbole_gen.data.item_names import rows_of_items
from recbole_gen.errors import UserError, counted
from recbole_gen.model.given_vectors import place_item_vectors
from recbole_gen.reading.file_readers import EXAMPLES
from recbole_gen.reading.item_vectors import ItemVectors, read_item_vectors

UNUSED: dict[str, Any] = {"item_vectors": None, "item_vectors_use": "init", "item_vectors_rms": None}
"""The keys where no vectors are given."""


def use_item_vectors(config, model: Any, dataset) -> None:
    """Fill the item table of a new model as `item_vectors` says, and tell which items are in one place alone. Its
    attribute ``item_vectors_factor`` is then by what the vectors of the file were multiplied.

    Raises UserError for a file that cannot be used, a model that cannot use it, and a use of none.
    """
    if not config["item_vectors"]:
        for key in ("item_vectors_use", "item_vectors_rms"):
            if config[key] != UNUSED[key]:
                raise UserError(
                    f"{key}: {config[key]} says what to do with item_vectors, and there are none: name the folder of "
                    f"an `export`, or a file, with --item_vectors=PATH"
                )
        return
    found = read_item_vectors(config["item_vectors"])
    names = [str(name) for name in dataset.field2id_token[dataset.iid_field]]
    given, known = match_names(found, names)
    factor = 1.0
    if config["item_vectors_rms"]:
        factor = config["item_vectors_rms"] / max(given[known].square().mean().sqrt().item(), 1e-30)
        given *= factor
    model.item_vectors_factor = factor  # for items that come later
    place_item_vectors(model, given, known, config["item_vectors_use"])
    if distributed.is_main_process():
        _tell(found, names, known, config["item_vectors_use"])


def match_names(found: ItemVectors, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors in the order of the data set's items, padding first: [n_items, width], 0 where there is none, and which
    items have one, [n_items] bool.

    Raises UserError if none has.
    """
    rows = rows_of_items("item_vectors", found.path, found.names, names)
    known = rows >= 0
    given = np.zeros((len(names), found.width), dtype=np.float32)
    given[known] = found.vectors[rows[known]]
    return torch.from_numpy(given), torch.from_numpy(known)


def _tell(found: ItemVectors, names: list[str], known: torch.Tensor, use: str) -> None:
    n_known, n_items = int(known.sum()), len(names) - 1
    log, number = logging.getLogger(), f"{n_known:,} of {counted(n_items, 'item')}"
    log.info(f"item_vectors: {number} have vectors of {found.path} ({found.width} wide)")
    if n_known < n_items:
        missing: list[Any] = [name for name, is_known in zip(names[1:], known[1:].tolist()) if not is_known]
        instead, some = "what was drawn" if use == "init" else "the mean of all", ", ".join(missing[:EXAMPLES])
        log.warning(
            f"item_vectors: {counted(len(missing), 'item', 'have')} no vector there, such as {some}: in place of it is "
            f"{instead}"
        )
    if foreign := len(found.names) - n_known:
        log.info(f"item_vectors: {counted(foreign, 'other name', 'are')} there, of no item of the data set")
