"""The configuration of a run that may go on from the checkpoint of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_gen import checkpoint
from recbole_gen.config import registry
from recbole_gen.config.config import Config
from recbole_gen.config.layers import merge_layers, read_user_layers, resumed_checkpoint
from recbole_gen.data import cold_items, simultaneous
from recbole_gen.data.given_vectors import UNUSED
from recbole_gen.errors import counted


def configure(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: dict[str, Any] | None = None,
    argv: Sequence[str] = (),
) -> tuple[Config, Path | None]:
    """The configuration that `run` would use, and the checkpoint it would go on from (with a `resume` key).

    Raises UserError as `Config` does, and CheckpointError for a checkpoint of another model, data set or protocol, for
    one that has more epochs than are asked for, for another order of simultaneous events, for other cold items, and for
    another use of item vectors.
    """
    given = merge_layers(read_user_layers(config_file_list, config_dict, argv))
    path = resumed_checkpoint(given)
    if path is None:
        return Config(model, dataset, config_file_list, config_dict, argv), None
    content = checkpoint.load(path)
    stored = content["config"]
    for key, value in (("model", model), ("dataset", dataset), ("protocol", None)):
        _require_stored(path, stored, key, value or given.get(key))
    config = Config(model, dataset, config_file_list, config_dict, argv, stored_settings(content))
    _require_no_fewer_epochs(path, content, config)
    _require_same_order(path, stored, config)
    _require_same_cold_items(path, stored, config)
    _require_same_item_vectors(path, stored, config)
    return config, path.resolve()


def finished_config(
    path: Path,
    content: dict[str, Any],
    model: str | type | None = None,
    changes: dict[str, Any] | None = None,
    **options: Any,
) -> Config:
    """The configuration of the run whose checkpoint this is, but for ``changes``; ``options`` are those of `Config`.

    ``model`` names a class of somebody's own, whose code is to be imported; of other models it may be None.
    """
    _require_stored(path, content["config"], "model", model)
    return Config(model or None, stored={**stored_settings(content), **(changes or {})}, **options)


def _require_stored(path: Path, stored: dict[str, Any], key: str, value: Any) -> None:
    """Raise CheckpointError if a value is given, and is another than that of the checkpoint's run."""
    wanted = registry.class_path(value) if isinstance(value, type) else value
    if wanted and wanted != stored[key]:
        raise checkpoint.CheckpointError(f"{path} is a checkpoint of {key} {stored[key]}, not of {wanted}")


def _require_no_fewer_epochs(path: Path, content: dict[str, Any], config: Config) -> None:
    """As many as there are is what a run needs that is to be tested only; fewer cannot be taken back."""
    done, asked = content["next_epoch"], config["epochs"]
    if "epochs" in config.chosen and asked < done:
        raise checkpoint.CheckpointError(
            f"{path} has {counted(done, 'epoch')} already, and epochs is {asked} ({config.origins['epochs']}): there "
            f"is nothing to train. --epochs={done} tests the best one again, and a larger number goes on"
        )


def _require_same_order(path: Path, stored: dict[str, Any], config: Config) -> None:
    """Raise CheckpointError where simultaneous events would be in another order: what tests now has trained before."""
    if simultaneous.tie_seed(stored) != simultaneous.tie_seed(config.settings()):
        raise checkpoint.CheckpointError(
            f"{path} is of a run that has simultaneous events {simultaneous.describe_order(stored)}, not "
            f"{simultaneous.describe_order(config.settings())}: it has learned from items that would test it now. "
            f"Leave out what changes that (tie_order, tie_seed, seed), or start a new run, without --resume"
        )


def _require_same_cold_items(path: Path, stored: dict[str, Any], config: Config) -> None:
    """Raise CheckpointError where other items would be cold: the model has seen them."""
    before, now = (cold_items.describe_draw(settings) for settings in (stored, config.settings()))
    if before != now:
        shown = ["without cold_items" if each is None else f"with cold_items {each[0]} of seed {each[1]}"
                 for each in (before, now)]  # fmt: skip
        raise checkpoint.CheckpointError(
            f"{path} is of a run {shown[0]}, not {shown[1]}: it has learned from items that would be cold now, or was "
            f"never to see those that are warm. Leave out what changes that (cold_items, seed), or start a new run, "
            f"without --resume"
        )


def _require_same_item_vectors(path: Path, stored: dict[str, Any], config: Config) -> None:
    """Raise CheckpointError where the item vectors of a file would be used otherwise than they were."""
    before, now = ({**UNUSED, **settings} for settings in (stored, config.settings()))
    differs = [key for key in UNUSED if key != "item_vectors" and before[key] != now[key]]
    if bool(before["item_vectors"]) != bool(now["item_vectors"]):
        differs = ["item_vectors"]
    if differs:
        key = differs[0]
        raise checkpoint.CheckpointError(
            f"{path} is of a run with {key} {before[key]}, not {now[key]}: its item vectors are in the checkpoint, "
            f"made as was asked then. Leave out what changes that, or start a new run, without --resume"
        )


def changed_settings(content: dict[str, Any], config: Config, keys: Iterable[str]) -> list[str]:
    """Which of these keys are not what they were in the checkpoint's run, with both values."""
    before, now = content["config"], config.settings()
    return [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r} ({config.origins.get(key)})"
        for key in sorted(set(keys) & now.keys())
        if before.get(key) != now.get(key)
    ]


def stored_settings(content: dict[str, Any]) -> dict[str, Any]:
    """The configuration that a checkpoint's run ended up with; what chose its layers has had its effect."""
    return {key: value for key, value in content["config"].items() if key not in ("paper", "resume")}
