"""Items that a run has never seen, ranked beside its own by their vectors: more rows of a table that is given.

It is the model of a larger catalogue with the same weights, so that histories may hold new items, too. It can be had of
a model in which nothing but the item table grows with the number of items.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from recbole_gen.config.config import Config
from recbole_gen.data.given_vectors import GivenVectors
from recbole_gen.data.requirements import model_needs
from recbole_gen.errors import UserError, counted
from recbole_gen.model.given_vectors import item_table_name
from recbole_gen.reading.file_readers import first_names
from recbole_gen.reading.item_vectors import ItemVectors, read_item_vectors
from recbole_gen.recommending.model_input import token_ids

KEY = "items"
"""What messages call them, as the option of `recommend` and the argument of `Recommender.load`."""
NO_NAMES = ("", "[PAD]")
"""An empty cell lacks its item, and RecBole's padding is item 0 of each vocabulary."""


def read_new_items(path: str | Path) -> ItemVectors:
    """Names and vectors of a file, in the forms of the key `item_vectors`. Raises UserError as those do."""
    return read_item_vectors(path, KEY)


def require_new_items(config: Config, content: dict[str, Any], new: ItemVectors) -> None:
    """Raise UserError for a run that cannot be given items, and for items that it has already."""
    name, use = content["model"], config["item_vectors_use"]
    if model_needs(config, "semantic_ids"):
        raise UserError(
            f"{KEY}: {name} knows items by their semantic IDs, not by vectors, and new ones have none in this run: "
            f"train a model with a table of given vectors, such as SASRec with --item_vectors=FILE and "
            f"--item_vectors_use=adaptor"
        )
    if not config["item_vectors"] or use == "init":
        raise UserError(
            f"{KEY}: this run of {name} has learned the vectors of its items, and what is in a file is none of them: "
            f"train it with --item_vectors=FILE and --item_vectors_use=frozen or adaptor, which keep to given ones"
        )
    if content.get("item_vectors_factor") is None:
        if config["item_vectors_rms"]:
            raise UserError(
                f"{KEY}: this run of {name} is of a version that did not keep by what item_vectors_rms had multiplied "
                f"its vectors: train it again"
            )
        content["item_vectors_factor"] = 1.0
    trained_by = content.get("item_vectors_encoder")
    if trained_by and new.encoder and new.encoder != trained_by:
        raise UserError(
            f"{KEY}: the vectors of {new.path} are of another text encoder than those that this run of {name} was "
            f"given: make them with the same one, `prepare NAME --text_encoder=...`"
        )
    if content["serving"]["item_features"]:
        raise UserError(f"{KEY}: {name} reads the features of items, and new ones have none")
    if odd := [repr(each) for each in new.names if each in NO_NAMES]:
        raise UserError(
            f"{KEY}: {new.path} has an item called {odd[0]}, which stands for no item: give it another name"
        )
    own = pa.array(content["vocabulary"][config["ITEM_ID_FIELD"]], pa.string())
    known = [token for token, place in zip(new.names, token_ids(pa.array(new.names, pa.string()), own)) if place > 0]
    if known:
        raise UserError(
            f"{KEY}: {counted(len(known), 'item', 'are')} both in {new.path} and among the run's own "
            f"({first_names(known)}): leave out what is not new"
        )


def enlarge_catalogue(config: Config, content: dict[str, Any], new: ItemVectors) -> None:
    """Give the content of a checkpoint the names of new items, all but their vectors."""
    items, serving = config["ITEM_ID_FIELD"], content["serving"]
    content["vocabulary"][items] = [*content["vocabulary"][items], *new.names]
    serving["sizes"][items] += len(new.names)
    serving["counts"] = torch.cat([serving["counts"], serving["counts"].new_zeros(len(new.names))])


def enlarge_table(
    config: Config, content: dict[str, Any], model: nn.Module, new: ItemVectors, is_adapted: bool
) -> None:
    """Put the vectors of new items into the weights of a checkpoint, behind those of its own items.

    Args:
        content: as `enlarge_catalogue` has left it.
        model: new, of the larger catalogue, its table not yet one of adapted vectors.

    Raises UserError for vectors of another width.
    """
    table, state, name = item_table_name(model), content["state_dict"], content["model"]
    weight: Any = getattr(model, table).weight
    names = [f"{table}.given"] if is_adapted else [
        each for each, value in model.named_parameters(remove_duplicate=False) if value is weight
    ]  # fmt: skip
    size = content["serving"]["sizes"][config["ITEM_ID_FIELD"]] - len(new.names)
    done = GivenVectors.from_checkpoint(content)
    if done.whitening is not None:
        _require_width(new, len(done.whitening.mean), "the vectors that it was given")
    given = done.prepare(torch.tensor(new.vectors))  # a copy: what comes from Parquet is not writable, torch warns
    for each in names:
        old = state.get(each)
        if not isinstance(old, torch.Tensor) or old.dim() != 2 or len(old) < size:
            raise UserError(f"{KEY}: the checkpoint of {name} has no item table {each}: it was changed")
        if done.whitening is None:
            _require_width(new, old.shape[1], "the vectors that it was given" if is_adapted else "its item table")
        state[each] = torch.cat([old[:size], given.to(old), old[size:]])


def _require_width(new: ItemVectors, width: int, whose: str) -> None:
    if new.width != width:
        raise UserError(
            f"{KEY}: the vectors of {new.path} are {new.width} wide, and {whose} {width}: take them from where the "
            f"run's own come from"
        )


def require_nothing_else_grows(content: dict[str, Any], model: nn.Module) -> None:
    """Raise UserError where weights of the larger model have more rows than the checkpoint's."""
    state = content["state_dict"]
    others = [
        name
        for name, own in model.state_dict().items()
        if isinstance(state.get(name), torch.Tensor) and state[name].shape != own.shape
    ]
    if others:
        raise UserError(
            f"{KEY}: {content['model']} has learned {', '.join(others)} for each of its items, beside their given "
            f"vectors, and new ones have none: train a model whose scores come from the item table alone, such as "
            f"SASRec, DreamRec, PreferDiff or PASRec"
        )
