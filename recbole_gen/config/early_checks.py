"""What `Config` would refuse of names and keys, found before RecBole, torch or a model is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recbole_gen.config import keys, registry
from recbole_gen.config.keys import Layer
from recbole_gen.config.layers import (
    Source,
    layers_of_verb,
    merge_layers,
    read_user_layers,
    resumed_checkpoint,
    selected_run,
    shipped_layers,
    without_print_config,
)
from recbole_gen.errors import UserError

LABEL_HINT = " (A label of your own needs a file with `model: NAME` in it, see --model_configs.)"


def check_command_line(argv: Sequence[str], options: Iterable[str] = ()) -> None:
    """The command line of a run: its keys, files, model, protocol and paper, and the checkpoint that it resumes.

    ``options`` are words of the command line beside the keys, which one that is unknown may have been meant for.
    Raises UserError as `Config` does. A class of the user's own, and the settings of a resumed run, would have to be
    loaded: what depends on them is left to `Config`.
    """
    layers = read_user_layers(argv=argv)
    if resumed_checkpoint(merge_layers(layers)) is None:
        _check_layers(layers, options)


def check_values(
    values: dict[str, Any], options: Iterable[str] = (), files: Sequence[Source] = (), **more: Any
) -> None:
    """The same for what a verb gives its runs, as `layers.run_values` takes it.

    ``options`` are the verb's own: a message about an unknown key that is near to one of them names it.
    """
    try:
        _check_layers([("", more), *layers_of_verb(values, files)], options)
    except keys.UnknownKeys as error:
        raise UserError(without_print_config(str(error))) from None


def check_models(values: dict[str, Any], files: Mapping[str, Sequence[Source]], options: Iterable[str] = ()) -> None:
    """The same for several models with settings in common: ``files`` has for each label those that it has alone.

    A label names its model where its files do not. A key that some of the models lack is no mistake, see
    `keys_of_others`. Raises UserError for a model that does not exist, and for keys that none of them has.
    """
    lacking: dict[str, dict[Any, str]] = {}
    known: set[str] = set()
    for label, own in files.items():
        layers = [("", {"model": label}), *layers_of_verb(values, own)]
        try:
            info = registry.model_info(str(merge_layers(layers)["model"]))
        except UserError as error:
            raise UserError(f"{error}{'' if own else LABEL_HINT}") from None
        lacking[label] = {}
        if info is None:
            continue  # its class may have any key
        try:
            _check_layers(layers)
        except keys.UnknownKeys as error:
            lacking[label] = error.unknown
        known |= keys.known_keys(shipped_layers(info, selected_run(layers))[0])
    nobodys = set.intersection(*map(set, lacking.values()))
    if nobodys:
        origins = next(iter(lacking.values()))
        unknown = {key: origin for key, origin in origins.items() if key in nobodys}
        raise UserError(keys.describe_unknown_to_all(list(files), unknown, known, options))


def keys_of_others(values: dict[str, Any], files: Mapping[str, Sequence[Source]]) -> dict[str, set[str]]:
    """Label -> the keys among the settings in common that its model lacks, and that another of the models has.

    Arguments are those of `check_models`; classes of the user's own are imported. One that declares no keys lacks none.
    """
    known: dict[str, set[str]] = {}
    declares: set[str] = set()
    for label, own in files.items():
        layers = [("", {"model": label}), *layers_of_verb(values, own)]
        model = str(merge_layers(layers)["model"])
        info = registry.model_info(model) or registry.resolve_model(model).info
        known[label] = keys.known_keys(shipped_layers(info, selected_run(layers))[0])
        if not info.missing_settings:
            declares.add(label)
    shared, somebodys = merge_layers(layers_of_verb(values)).keys(), set().union(*known.values())
    return {label: (shared & somebodys) - known[label] if label in declares else set() for label in files}


def _check_layers(layers: Sequence[Layer], options: Iterable[str] = ()) -> None:
    selected = selected_run(layers)
    info = None if isinstance(selected.model, type) else registry.model_info(str(selected.model))
    if info is None:
        return
    shipped, _ = shipped_layers(info, selected)
    keys.require_known_keys(info, shipped, [selected.paper, *layers], options)
