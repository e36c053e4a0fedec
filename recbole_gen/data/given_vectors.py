"""The keys `item_vectors`: vectors of a file, by the names of a data set's items, into a model's table."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recbole_gen import distributed
from recbole_gen.data.item_names import rows_of_items
from recbole_gen.data.whitening import Whitening, fit_whitening
from recbole_gen.errors import UserError, counted
from recbole_gen.model.given_vectors import item_table_name, place_item_vectors
from recbole_gen.reading.file_readers import first_names
from recbole_gen.reading.item_vectors import ItemVectors, read_item_vectors

UNUSED: dict[str, Any] = {
    "item_vectors": None, "item_vectors_use": "init", "item_vectors_whiten": False, "item_vectors_rms": None,
}  # fmt: skip
"""The keys where no vectors are given."""


@dataclass(frozen=True)
class GivenVectors:
    """What was done to the vectors of a file, and has to be done to those of items that come later.

    Attributes:
        factor: by which they were multiplied, after the whitening.
        whitening: None for none.
        encoder: digest of the encoder that made them of texts; None if nothing beside the file says.
    """

    factor: float = 1.0
    whitening: Whitening | None = None
    encoder: str | None = None

    def prepare(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors as a file has them [n, width] as the model has them [n, its width]."""
        if self.whitening is not None:
            vectors = self.whitening.apply(vectors)
        return vectors * self.factor

    def checkpoint_entries(self) -> dict[str, Any]:
        """As plain data of a checkpoint, see `from_checkpoint`."""
        axes = self.whitening and {"mean": self.whitening.mean, "axes": self.whitening.axes}
        return {
            "item_vectors_factor": self.factor,
            "item_vectors_whitening": axes,
            "item_vectors_encoder": self.encoder,
        }

    @classmethod
    def from_checkpoint(cls, content: dict[str, Any]) -> GivenVectors:
        """Of a checkpoint's content, of which those of earlier versions lack some."""
        axes = content.get("item_vectors_whitening")
        whitening = None if axes is None else Whitening(axes["mean"], axes["axes"])
        return cls(content["item_vectors_factor"], whitening, content.get("item_vectors_encoder"))


def use_item_vectors(config, model: Any, dataset) -> None:
    """Fill the item table of a new model as `item_vectors` says, and tell which items are in one place alone. Its
    attribute ``given_vectors`` is then what was done to the vectors of the file.

    Raises UserError for a file that cannot be used, a model that cannot use it, and a use of none.
    """
    if not config["item_vectors"]:
        for key in UNUSED:
            if key != "item_vectors" and config[key] != UNUSED[key]:
                raise UserError(
                    f"{key}: {config[key]} says what to do with item_vectors, and there are none: name the folder of "
                    f"an `export`, or a file, with --item_vectors=PATH"
                )
        return
    found = read_item_vectors(config["item_vectors"])
    names = [str(name) for name in dataset.field2id_token[dataset.iid_field]]
    given, known = match_names(found, names)
    model.given_vectors = done = _fit(config, model, given[known], found)
    prepared = done.prepare(given)
    prepared[~known] = 0
    place_item_vectors(model, prepared, known, config["item_vectors_use"])
    if distributed.is_main_process():
        _tell(found, names, known, config["item_vectors_use"])
        if done.whitening is not None:
            axes, share = done.whitening.axes.shape[1], done.whitening.explained
            logging.getLogger().info(
                f"item_vectors_whiten: along {counted(axes, 'direction')} of {found.width}, which have {share:.1%} of "
                f"their variance; then multiplied by {done.factor:.4g}"
            )


def _fit(config, model: Any, vectors: torch.Tensor, found: ItemVectors) -> GivenVectors:
    """What the settings ask to be done to ``vectors`` [n, width], those of the file that the data set's items have."""
    table, wanted = getattr(model, item_table_name(model)), config["item_vectors_rms"]
    whitening = None
    if config["item_vectors_whiten"]:
        whitening = _fit_whitening(config, model, table.embedding_dim, vectors, found)
        vectors = whitening.apply(vectors)
        # They have lost their own scale: that of the table is what the model is made for. (An adaptor finds its own.)
        if wanted is None and config["item_vectors_use"] != "adaptor":
            wanted = table.weight[1:].detach().square().mean().sqrt().item()
    factor = 1.0
    if wanted is not None:
        root_mean_square = vectors.double().square().mean().sqrt().item()
        factor = wanted / root_mean_square if root_mean_square > 0 else 1.0
    return GivenVectors(factor, whitening, found.encoder)


def _fit_whitening(config, model: Any, size: int, vectors: torch.Tensor, found: ItemVectors) -> Whitening:
    """Along ``size`` axes, the width of the model's table; of all for an adaptor, which reads whatever there is."""
    adapted = config["item_vectors_use"] == "adaptor"
    whitening = fit_whitening(vectors, None if adapted else size)
    axes = whitening.axes.shape[1]
    if axes == 0:
        raise UserError(
            f"item_vectors_whiten: the {counted(len(vectors), 'vector')} of {found.path} are alike, and have nothing "
            f"that could be whitened"
        )
    if not torch.isfinite(whitening.axes).all():
        raise UserError(
            f"item_vectors_whiten: the numbers of {found.path} are too small to be divided by their spread: multiply "
            f"them all by a large number"
        )
    if not adapted and axes < size:
        raise UserError(
            f"item_vectors_whiten: the {counted(len(vectors), 'vector')} of {found.path} differ in "
            f"{counted(axes, 'direction')} only, and the item table of {type(model).__name__} is {size} wide: "
            f"--item_vectors_use=adaptor takes fewer, or make the model as small"
        )
    return whitening


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
        missing = [str(name) for name, is_known in zip(names[1:], known[1:].tolist()) if not is_known]
        instead = "what was drawn" if use == "init" else "the mean of all"
        log.warning(
            f"item_vectors: {counted(len(missing), 'item', 'have')} no vector there ({first_names(missing)}): in place "
            f"of it is {instead}"
        )
    if foreign := len(found.names) - n_known:
        log.info(f"item_vectors: {counted(foreign, 'other name', 'are')} there, of no item of the data set")
