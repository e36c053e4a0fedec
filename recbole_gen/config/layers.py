"""The layers of settings: what RecBole and we ship for a model and a data set, and what a user gives."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_gen.config import keys, places, registry
from recbole_gen.config.keys import COMMAND_LINE, DICT, Layer
from recbole_gen.config.papers import DEFAULT_PROTOCOL, read_paper
from recbole_gen.errors import UserError
from recbole_gen.options import parse_arguments, parse_scalar, read_yaml

Source = str | Path | Layer
"""Settings of a user: the name of a YAML file, or what was read from one."""
_KINDS = {
    "CONTEXT": "context-aware.yaml", "DECISIONTREE": "context-aware.yaml", "KNOWLEDGE": "knowledge_base.yaml",
    "SEQUENTIAL": "sequential.yaml",
}  # fmt: skip
"""RecBole's file of settings for each kind of model."""


@dataclass(frozen=True)
class SelectedRun:
    """What the user's layers ask for: by these the shipped ones are found.

    Attributes:
        paper: the layer of the published setting, empty without one.
        values: the paper's and the user's together.
    """

    model: str | type
    dataset: str
    paper: Layer
    values: dict[str, Any]


def selected_run(
    user_layers: Sequence[Layer], model: str | type | None = None, dataset: str | None = None
) -> SelectedRun:
    """Model, data set and published setting; arguments that are not None win over the layers.

    Raises UserError if one of the first two is missing, or there is no such paper.
    """
    user = merge_layers(user_layers)
    name = user.get("paper")
    paper: Layer = ("paper", {})
    if name:
        paper = (f"paper/{name}.yaml", read_paper(name).settings)
    values = {**paper[1], **user}
    chosen = _require(model or values.get("model"), "model")
    return SelectedRun(chosen, str(_require(dataset or values.get("dataset"), "dataset")), paper, values)


def _require(value: Any, key: str) -> Any:
    if value is None or value is True or value == "":
        raise UserError(f"no {key} given: say --{key}=... (for a first try: --model=DreamRec --dataset=ml-100k)")
    return value


def resumed_checkpoint(values: dict[str, Any]) -> Path | None:
    """The checkpoint that a run with these values goes on from, None without `resume`. Raises UserError if there is no
    such file."""
    folder = values.get("resume")
    if folder is True or folder == "":
        raise UserError("--resume needs the folder of the run that is to go on")
    if not folder:
        return None
    path = Path(str(folder)) / "last.pth" if Path(str(folder)).is_dir() else Path(str(folder))
    if not path.exists():
        raise UserError(f"--resume={folder}: there is no checkpoint {path}; a run has one after its first epoch")
    return path


def shipped_layers(info: registry.ModelInfo, selected: SelectedRun) -> tuple[list[Layer], str | None]:
    """RecBole's and our files for the model, the data set and the protocol, in the order in which they win.

    Returns them with the name of the protocol, None where the model is not evaluated by ranking. Raises UserError for a
    protocol that does not exist, and for broken files.
    """
    layers = _model_and_dataset_layers(info, selected.dataset)
    # RecBole rates DIN and the context-aware models by AUC.
    ranks_all_items = "AUC" not in merge_layers(layers)["metrics"]
    protocol = selected.values.get("protocol", DEFAULT_PROTOCOL if ranks_all_items else None)
    if protocol:
        layers.append((f"protocol/{protocol}.yaml", read_yaml(places.property_file("protocol", protocol))))
        of_model = f"protocol/{protocol}/{info.name}.yaml"  # what this model has of its own under it
        if not (info.is_recbole or info.is_users_own) and (places.PROPERTIES / of_model).is_file():
            layers.append((of_model, read_yaml(places.PROPERTIES / of_model)))
    return layers, protocol


def _model_and_dataset_layers(info: registry.ModelInfo, dataset: str) -> list[Layer]:
    name, kind, special = info.name, _KINDS.get(info.kind), None
    if info.is_recbole and info.kind == "SEQUENTIAL":
        if name in ("DIN", "DIEN"):
            kind, special = "sequential_DIN.yaml", "sequential_DIN_on_ml-100k.yaml"
        elif name in ("GRU4RecKG", "KSR"):
            kind = "sequential_embedding_model.yaml"
        elif name in ("GRU4RecF", "SASRecF", "FDSA", "S3Rec"):
            special = "special_sequential_on_ml-100k.yaml"
    elif kind == "context-aware.yaml":
        special = "context-aware_ml-100k.yaml"
    recbole, start = places.RECBOLE_PROPERTIES, places.RECBOLE_PROPERTIES / "quick_start_config"
    files = [
        (recbole / "overall.yaml", "RecBole overall.yaml"),
        (recbole / "dataset/sample.yaml", "RecBole sample.yaml"),
        (places.PROPERTIES / "overall.yaml", "overall.yaml"),
        (start / f"{kind}", f"RecBole {kind}"),
        (recbole / f"model/{name}.yaml" if info.is_recbole else None, f"RecBole model/{name}.yaml"),
        (info.settings, f"model/{name}.yaml"),
        (recbole / f"dataset/{dataset}.yaml", f"RecBole dataset/{dataset}.yaml"),
        (places.PROPERTIES / f"dataset/{dataset}.yaml", f"dataset/{dataset}.yaml"),
        (start / f"{special}" if dataset == "ml-100k" else None, f"RecBole {special}"),
    ]
    layers: list[Layer] = []
    for path, origin in files:
        if path is None or not path.is_file():
            continue
        layer = read_yaml(path)
        if origin == f"RecBole dataset/{dataset}.yaml":
            # It repeats RecBole's defaults, which must not win over what a model sets, and the file for the kind of
            # model (knowledge_base.yaml loads .kg and .link) wins over it in RecBole, too.
            defaults, of_kind = layers[0][1] | layers[1][1], dict(layers).get(f"RecBole {kind}", {})
            layer = {key: value for key, value in layer.items() if key not in defaults or value != defaults[key]}
            layer = {key: value for key, value in layer.items() if key not in of_kind}
        layers.append((origin, layer))
    return layers


def read_user_layers(
    config_file_list: Sequence[Source] | None = None,
    config_dict: dict[str, Any] | None = None,
    argv: Sequence[str] = (),
) -> list[Layer]:
    """What the user gives, as (origin, values), the weakest first: files, dict, command line."""
    arguments = parse_arguments(argv)
    values = {key: _parse_dict_value(value) for key, value in (config_dict or {}).items()}
    files = [*(config_file_list or []), *_file_list(values.pop("config_files", None))]
    files += _file_list(arguments.pop("config_files", None))
    return [*map(_read_source, files), (DICT, values), (COMMAND_LINE, arguments)]


def _read_source(source: Source) -> Layer:
    return source if isinstance(source, tuple) else (str(source), read_yaml(Path(source)))


def merge_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """The values of all layers, later ones over earlier ones."""
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged.update(layer)
    return merged


def _parse_dict_value(value: Any) -> Any:
    """RecBole reads numbers, lists and dicts out of strings in a dict of parameters; other strings stay as they are."""
    numpy = sys.modules.get("numpy")  # where nobody has imported it, nothing is of its types
    if numpy and isinstance(value, numpy.generic):
        return value.item()
    parsed = parse_scalar(value) if isinstance(value, str) else value
    return value if parsed is None else parsed


def _file_list(value: Any) -> list[str]:
    """RecBole's form, names separated by blanks, or a list."""
    if value is True:
        raise UserError("--config_files needs the names of YAML files")
    return list(value) if isinstance(value, (list, tuple)) else str(value).split() if value is not None else []


GIVEN_FILES = ("item_vectors", "semantic_ids")
"""Keys that name a file, or a folder, of the user's that a run's numbers depend on, beside those of the data set."""


def run_values(
    values: dict[str, Any], files: Sequence[Source] = (), compared: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    """What `run` gets, as one dict that any machine can read: files (those of `config_files` first), then the values.

    ``more`` has what is weaker than both. Keys of other models in the files are left out, with a warning each, which
    names those that are ``compared`` first. Paths of data are absolute: workers have working folders of their own.
    """
    merged = merge_layers(_without_keys_of_others([("", more), *layers_of_verb(values, files)], compared))
    merged["data_path"] = os.path.abspath(str(merged.get("data_path", "dataset")))
    for key in GIVEN_FILES:
        if isinstance(merged.get(key), str):
            merged[key] = os.path.abspath(merged[key])
    return merged


def _without_keys_of_others(layers: list[Layer], compared: Sequence[str]) -> list[Layer]:
    """Without what is in files for other models; the same where no model is named yet, or there is no such model."""
    try:
        selected = selected_run(layers)
        info = registry.model_info(str(selected.model)) or registry.resolve_model(selected.model).info
        kept, ignored = keys.without_keys_of_others(info, shipped_layers(info, selected)[0], layers, compared)
    except UserError:
        return layers
    for line in ignored:
        logging.getLogger(__name__).warning(line)
    return kept


def with_origins(error: UserError, values: dict[str, Any], files: Sequence[Source] = ()) -> str:
    """What `Config` says against the result of `run_values`, with the file of each key in place of `(dict)`."""
    origins = {key: origin for origin, layer in layers_of_verb(values, files) for key in layer}
    lines = []
    for line in without_print_config(str(error)).splitlines():
        origin = next((origins[word] for word in re.findall(r"\w+", line) if word in origins), "dict")
        lines.append(line.replace("(dict)", f"({origin})"))
    return "\n".join(lines)


def without_print_config(message: str) -> str:
    """A message of `Config` without the advice to use `--print-config`, which the verbs do not have."""
    return "\n".join(line for line in message.splitlines() if not line.startswith("--print-config"))


def layers_of_verb(values: dict[str, Any], files: Sequence[Source] = ()) -> list[Layer]:
    """What a verb such as `compare` is given for its runs, the weakest first: files, those of `config_files` before
    the others, and the values of the command line."""
    common = str(values.get("config_files") or "").split()
    given = {key: value for key, value in values.items() if key != "config_files"}
    return [*read_user_layers([*common, *files]), (COMMAND_LINE, given)]
