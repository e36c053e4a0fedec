"""Which search space a model of a leaderboard has. Nothing is imported for it that is large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_gen.compare.arguments import file_name
from recbole_gen.config import places
from recbole_gen.config.layers import Source, layers_of_verb, merge_layers
from recbole_gen.errors import UserError
from recbole_gen.sweep.space import Space
from recbole_gen.sweep.space_file import read_space


def models_of_labels(values: dict[str, Any], files: Mapping[str, Sequence[Source]]) -> dict[str, str]:
    """Label -> its model: the one that its files name, or else the label itself."""
    layers = {label: [("", {"model": label}), *layers_of_verb(values, own)] for label, own in files.items()}
    return {label: str(merge_layers(own)["model"]) for label, own in layers.items()}


def find_spaces(
    models: Mapping[str, str], folder: Any = None, refused: Sequence[str] = ()
) -> dict[str, tuple[Path, Space]]:
    """Label -> the file of its search space, and what is in it; without the labels that have none.

    Args:
        models: label -> model.
        folder: of `--spaces`, whose LABEL.yaml or MODEL.yaml wins over properties/tune/MODEL.yaml.
        refused: keys that all models share, which no space may have.

    Raises UserError for a folder that is not there or has no space of these models, and for bad files.
    """
    given = None if folder is None else Path(str(folder))
    if given is not None and not given.is_dir():
        raise UserError(f"--spaces={folder}: there is no such folder (it has MODEL.yaml for each model that needs one)")
    own = {label: _file_in(given, label, model) for label, model in models.items()} if given else {}
    if given is not None and not any(own.values()):
        raise UserError(f"--spaces={folder}: no file there is that of a model, such as {next(iter(models))}.yaml")
    found = {}
    for label, model in models.items():
        path = own.get(label) or _file_in(places.PROPERTIES / "tune", model)
        if path is not None:
            found[label] = (path, read_space(path))
            if shared := ", ".join(key for key in refused if key in found[label][1].dimensions):
                raise UserError(f"{path} is for {label} alone and has {shared}, which all models share: take it out")
    return found


def _file_in(folder: Path, *names: str) -> Path | None:
    files = (folder / f"{file_name(name)}.yaml" for name in names)
    return next((file for file in files if file.is_file()), None)
