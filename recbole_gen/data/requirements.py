"""What a model asks of the data, and what can be known to be missing before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from recbole.data import dataset as recbole_datasets
from recbole.utils import ModelType

from recbole_gen.data import columns, scenes, set_splits, times
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.model import positions


def model_needs(config, what: str) -> bool:
    """Whether the model reads ``times``, ``scenes`` or ``future`` events, as its static `needs_<what>(config)` says."""
    ask = getattr(config.model_class, f"needs_{what}", None)
    return ask is not None and ask(config)


def check_before_loading(config) -> list[str]:
    """Have all columns loaded that settings name; returns what is to be told of them.

    Raises UserError for what can be known to be missing before the data set is loaded.
    """
    _require_files(config)
    _require_columns(config, ("USER_ID_FIELD", "ITEM_ID_FIELD"))
    if model_needs(config, "scenes"):
        scenes.require_scene_column(config)
    notes = columns.resolve_columns(config)
    if trains_on_positions(config):
        positions.refuse_unless_positions(config)
    positions.refuse_unless_loss(config)
    if config["tie_order"] != "file":
        refuse_split_files_without_order(config)
    notes += _tell_unread_keys(config)
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and config["mask_seen"] and config["benchmark_filename"]:
        raise UserError(
            "mask_seen needs the whole log, and files for each part hold histories only: mask_history: True leaves "
            "out those"
        )
    special = columns.special_dataset_class(config)
    if special is not None:
        if config["cold_items"] is not None and special is recbole_datasets.DIENDataset:
            raise UserError("cold_items: DIEN samples negative items of its own for every event, cold ones among them")
        if config["benchmark_filename"] and special is recbole_datasets.DIENDataset:
            raise UserError("DIEN needs the whole log: it samples a negative item for every event of it")
        return notes
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        _require_time_column(config)
        return notes
    if config["eval_args"]["split"] and "TC" in config["eval_args"]["split"]:
        raise UserError(
            f"this protocol is for sequential models, and {config['model']} is none. RecBole cuts its data by time "
            f'with --eval_args="{{split: {{RS: [8, 1, 1]}}, group_by: none, order: TO}}". (The result of every run '
            f"shows Pop beside it.)"
        )
    if config["eval_args"]["split"] and "SS" in config["eval_args"]["split"]:
        raise UserError(
            f"{config['model']} learns one vector a user, and this protocol tests on users that training never sees: "
            f"use --protocol=leave_one_out, or a sequential model. (The result of every run shows Pop beside it.)"
        )
    if config["last_events"] and not predicts_sets(config):
        raise UserError(
            f"last_events is for sequential models, and for the protocols holdout_82 and period: {config['model']} "
            f"reads every interaction under {config['protocol']}"
        )
    _require_general_columns(config)
    return notes


def refuse_split_files_without_order(config) -> None:
    """Raise UserError where histories and targets come as files, in which no simultaneous events can be put in another
    order."""
    if config["benchmark_filename"]:
        raise UserError(
            "tie_order: random needs the whole log, and files for each part have their histories and targets cut "
            "already: use tie_order: file"
        )


def trains_on_positions(config) -> bool:
    """Whether training batches are windows of histories, see `recbole_gen.data.position_windows`."""
    return config["MODEL_TYPE"] == ModelType.SEQUENTIAL and config["train_pairs"] == "positions"


def _tell_unread_keys(config) -> list[str]:
    """What is to be told of keys that the user has set, and that nothing reads beside his other settings."""
    pairs, loss, is_sequential = config["train_pairs"], config["loss"], config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    on_positions = trains_on_positions(config)
    unread = {
        "train_pairs": not is_sequential and pairs != "all" and f"{config['model']} learns from no histories",
        "window_step": not (is_sequential and pairs == "window") and "it is read with train_pairs: window",
        "positions_batch_size": not on_positions and "it is read with train_pairs: positions",
        "train_batch_size": on_positions and "with train_pairs: positions, positions_batch_size is what counts",
        "loss_negatives": loss == "softmax" and "it is read with loss: sampled_softmax and loss: gBCE",
        "gbce_t": loss != "gBCE" and "it is read with loss: gBCE",
        "tie_seed": config["tie_order"] == "file" and "it is read with tie_order: random",
        "tie_order": config["tie_order"] != "file"
        and config["eval_args"]["order"] == "RO"
        and "eval_args have order: RO, which takes all interactions in a random order",
    }
    for key in ("id_levels", "id_codes"):  # TIGER's
        unread[key] = bool(config["semantic_ids"]) and "the IDs are those of semantic_ids"
    unread["semantic_ids_column"] = not config["semantic_ids"] and "it is read with semantic_ids"
    for weight in {"alpha", "beta"} if config.chosen & {"alpha_k", "beta_k"} else ():  # DSPnet's
        unread[f"{weight}_k"] = config[weight] is not None and f"{weight} is given, which it would be K times"
    return [
        f"{key} ({config.origins.get(key)}) has no effect: {why}"
        for key, why in unread.items()
        if why and key in config.chosen
    ]


def predicts_sets(config) -> bool:
    """Whether the protocol's targets are sets of events, see `recbole_gen.data.set_splits`."""
    split = config["eval_args"]["split"]
    return not config["benchmark_filename"] and bool(split) and next(iter(split)) in set_splits.SET_SPLITS


def _require_time_column(config) -> None:
    """A model that reads times says so before the log is loaded."""
    if not model_needs(config, "times"):
        return
    titles = columns.Titles(config)
    path, found = titles.interaction_file, [*titles.of[columns.INTER]]
    field = config["TIME_FIELD"]
    if not field:
        raise UserError(f"{config['model']} reads times, and TIME_FIELD is empty. {times.time_field_advice(config)}")
    for name in (field, *([field + config["LIST_SUFFIX"]] if config["benchmark_filename"] else [])):
        if name not in found:
            raise UserError(
                f"data set '{config['dataset']}': {config['model']} reads times, and there is no column '{name}' among "
                f"{found} in {path}.{did_you_mean(name, found)} {times.time_field_advice(config)}"
            )


def _require_general_columns(config) -> None:
    """RecBole's general data set takes the columns that it needs for granted."""
    by_time = config["eval_args"]["order"] == "TO" and not config["benchmark_filename"]
    keys = ("USER_ID_FIELD", "ITEM_ID_FIELD", *(["TIME_FIELD"] if by_time else []))
    titles = _require_columns(config, keys)
    for key in keys:
        titles.load(columns.INTER, [config[key]])


def _require_columns(config, keys: tuple[str, ...]) -> columns.Titles:
    """The titles of a data set whose interactions have the columns that these keys name; else raises UserError."""
    titles = columns.Titles(config)
    path, found = titles.interaction_file, [*titles.of[columns.INTER]]
    for key in keys:
        if config[key] not in found:
            raise UserError(
                f"data set '{config['dataset']}': there is no column '{config[key]}' among {found} in {path}."
                f"{did_you_mean(config[key], found)} Name the right one with --{key}=NAME"
                + (", or split without times: eval_args with order: RO." if key == "TIME_FIELD" else ".")
            )
    return titles


def _require_files(config) -> None:
    name, parts = config["dataset"], config["benchmark_filename"]
    if parts is not None and (not isinstance(parts, (list, tuple)) or len(parts) != 3):
        raise UserError(f"benchmark_filename must name three parts such as [train, valid, test], got {parts!r}")
    suffixes = [f"{part}.inter" for part in parts] if parts else ["inter"]
    if isinstance(config["additional_feat_suffix"], str):  # as in RecBole's file for GRU4RecKG; it would read letters
        config["additional_feat_suffix"] = [config["additional_feat_suffix"]]
    for suffix in [*suffixes, *(config["additional_feat_suffix"] or [])]:
        path = Path(config["data_path"]) / f"{name}.{suffix}"
        if not path.is_file():
            found = ", ".join(sorted(file.name for file in path.parent.glob(f"{name}.*"))) or "no atomic files"
            raise UserError(
                f"{config['model']} on '{name}' needs the file {path}. Its folder holds {found}. Fixed parts "
                f"(NAME.train.inter, ...) are loaded with --protocol=benchmark."
            )
