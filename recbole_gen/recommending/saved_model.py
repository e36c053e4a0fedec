"""The model of a run's folder, built from its checkpoint alone: the data set it was trained on need not be here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType, ModelType

from recbole_gen import checkpoint
from recbole_gen.config.config import Config
from recbole_gen.config.resume import finished_config
from recbole_gen.data import given_vectors
from recbole_gen.data.times import DayRange
from recbole_gen.errors import UserError
from recbole_gen.evaluation import calibration
from recbole_gen.model.given_vectors import expect_adapted_vectors
from recbole_gen.quick_start import best_checkpoint, create_model
from recbole_gen.reading.item_vectors import ItemVectors
from recbole_gen.recommending.new_items import (
    enlarge_catalogue,
    enlarge_table,
    read_new_items,
    require_new_items,
    require_nothing_else_grows,
)


@dataclass(frozen=True)
class SavedModel:
    """A model in evaluation mode, and what its run's folder says of it.

    Attributes:
        content: of the checkpoint.
        window: as of `Recommender`.
        new_items: how many of its items, the last ones, it was not trained with.
    """

    config: Config
    model: Any
    content: dict[str, Any]
    window: calibration.DayWindow | None
    new_items: int = 0


def load_saved_model(
    folder: str | Path,
    device: str | None = None,
    model: str | type | None = None,
    items: str | Path | None = None,
) -> SavedModel:
    """The best checkpoint of a run's folder; ``device``, ``model`` and ``items`` as of `Recommender.load`.

    Raises UserError if there is no such run, its checkpoint is damaged, foreign, or not of one piece, or its model
    reads no histories, or something of its data set that a checkpoint does not have; for items as `new_items` says.
    """
    path = best_checkpoint(folder)
    new = None if items is None else read_new_items(items)
    content = checkpoint.load(path)
    _require_complete(path, content)
    changes = {} if device is None else {"use_gpu": device != "cpu"}
    config = finished_config(path, content, model, changes, needs_data=False)
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise UserError(f"{content['model']} reads no histories: recommending needs a sequential model")
    built = _build_model(path, config, content, new)
    window = calibration.read_window(Path(folder) / calibration.WINDOWS_FILE) if hasattr(built, "when") else None
    number = 0 if new is None else len(new.names)
    return SavedModel(config, built.to(config["device"]).eval(), content, window, number)


class CheckpointDataset:
    """What a model reads of a data set when it is built: its sizes. There are no interactions behind it."""

    def __init__(self, config, content: dict[str, Any]):
        self._sizes: dict[str, int] = content["serving"]["sizes"]
        self.field2seqlen: dict[str, int] = content["serving"]["lengths"]
        self.field2type = {field: FeatureType(kind) for field, kind in content["serving"]["types"].items()}
        self._features: dict[str, torch.Tensor] = content["serving"]["item_features"]
        self.config = config
        self.uid_field, self.iid_field = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
        self.user_num, self.item_num = self.num(self.uid_field), self.num(self.iid_field)
        self.semantic_ids: torch.Tensor | None = content["state_dict"].get("semantic_ids")
        if "day_range" in content["state_dict"]:
            self.day_range = DayRange(*content["state_dict"]["day_range"].tolist())

    def num(self, field: str) -> int:
        """How many values a field has, padding included."""
        if field not in self._sizes:
            raise _NotInCheckpoint(f"the values of '{field}'")
        return self._sizes[field]

    def get_item_feature(self) -> Interaction:
        """The columns of the items that the model has been trained with."""
        if not self._features:
            raise _NotInCheckpoint("the features of items")
        return Interaction(dict(self._features))

    def __getattr__(self, name: str):
        raise _NotInCheckpoint(name)


class _NotInCheckpoint(AttributeError):
    """A model reads something of a data set that a checkpoint does not have."""


def _require_complete(path: Path, content: dict[str, Any]) -> None:
    """Raise CheckpointError unless a checkpoint has everything and is of one piece."""
    wanted = {"model": str, "config": dict, "vocabulary": dict, "state_dict": dict, "other_parameter": object}
    for key, kind in wanted.items():
        if not isinstance(content.get(key), kind):
            raise checkpoint.CheckpointError(f"{path} has no '{key}', as a checkpoint of ours does: it was changed")
    serving = content.get("serving")
    if not isinstance(serving, dict):
        raise checkpoint.CheckpointError(
            f"{path} is of a version that kept nothing to recommend with: go on with its run for an epoch, with "
            f"--resume, or train it again"
        )
    for key, kind in {"sizes": dict, "lengths": dict, "types": dict, "item_features": dict}.items():
        if not isinstance(serving.get(key), kind):
            raise checkpoint.CheckpointError(
                f"{path} has no '{key}' to recommend with: it is of another version, or was changed"
            )
    scenes, kinds = serving.get("scenes"), {kind.value for kind in FeatureType}
    if not (scenes is None or isinstance(scenes, list)) or not kinds.issuperset(serving["types"].values()):
        raise checkpoint.CheckpointError(f"{path} does not say of what kind its columns are: it was changed")
    config = content["config"]
    if content["model"] != str(config.get("model", "")).rpartition(":")[2].rpartition(".")[2]:
        raise checkpoint.CheckpointError(
            f"{path} is of {content['model']}, and its configuration of {config.get('model')}: it was changed"
        )
    sizes, item_field = serving["sizes"], config.get("ITEM_ID_FIELD")
    for field in (config.get("USER_ID_FIELD"), item_field):
        tokens = content["vocabulary"].get(field)
        if not isinstance(tokens, list) or len(tokens) != sizes.get(field):
            raise checkpoint.CheckpointError(
                f"{path} has a vocabulary of '{field}' of another size than its model: it was changed"
            )
    counts = serving.get("counts")
    if not isinstance(counts, torch.Tensor) or counts.shape != (sizes[item_field],):
        raise checkpoint.CheckpointError(f"{path} counts other items than its vocabulary has: it was changed")
    for name, value in content["state_dict"].items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            raise checkpoint.CheckpointError(
                f"{path} has weights that are not numbers, in {name}: the training diverged"
            )


def _build_model(path: Path, config: Config, content: dict[str, Any], new: ItemVectors | None) -> Any:
    if config["logit_bias"] is not None:
        config["logit_bias"] = "none"  # counted over a data set; the weights have it
    is_adapted = config["item_vectors"] and config["item_vectors_use"] == "adaptor"
    if new is not None:
        require_new_items(config, content, new)
        enlarge_catalogue(config, content, new)
    for key, unused in given_vectors.UNUSED.items():
        config[key] = unused  # the weights have them, and the file need not be here
    try:
        model = create_model(config, CheckpointDataset(config, content))
    except _NotInCheckpoint as error:
        raise UserError(
            f"{content['model']} reads {error} of its data set, which is not in a checkpoint: it cannot recommend"
        ) from None
    if new is not None:
        enlarge_table(config, content, model, new, is_adapted)
    if is_adapted:
        expect_adapted_vectors(model, content["state_dict"])
    if new is not None:
        require_nothing_else_grows(content, model)
    checkpoint.load_weights(path, content, model)
    return model
