"""What is run for a published setting: its own model and its baselines, each with its settings. Nothing is imported
for it that is large."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_gen.compare.arguments import EVALUATION_KEYS
from recbole_gen.config import keys, places, registry
from recbole_gen.config.keys import COMMAND_LINE, Layer
from recbole_gen.config.layers import merge_layers, selected_run, shipped_layers
from recbole_gen.config.papers import PaperSetting, Published, measured_metrics, paper_names, read_paper
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import is_number, read_yaml

FIXED_KEYS = {
    "model": "the model", "dataset": "the data set", "protocol": "the protocol", "paper": "the setting",
}  # fmt: skip
"""Keys that would compare the published numbers with those of something else."""
TRAINING_KEYS = (
    "MAX_ITEM_LIST_LENGTH", "train_pairs", "positions_batch_size", "window_step", "future_events", "lr_scheduler",
    "warmup_steps", "loss", "loss_negatives", "gbce_t", "time_range", "transform", "enable_amp", "enable_scaler",
    "shuffle", "item_vectors", "item_vectors_use", "item_vectors_whiten", "item_vectors_rms",
)  # fmt: skip
"""Keys of every model that are of its training, beside those that RecBole lists as such."""
QUICK = {
    "epochs": 3, "hidden_size": 64, "inner_size": 128, "embedding_size": 64, "rnn_size": 64, "latent_size": 32,
    "scene_size": 32, "eval_step": 1,
}  # fmt: skip
"""--quick: no more than this of each, for every model that has the key."""


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        name, label: the setting's, and that of its model.
        values: what all models share: data, protocol, metrics, the machine.
        files: label -> what it has alone, the strongest last; the setting's model comes first.
        left_out: label -> why it is not run.
    """

    name: str
    label: str
    published: Published
    values: dict[str, Any]
    files: dict[str, list[Layer]]
    left_out: dict[str, str] = field(default_factory=dict)


def published_setting(name: str) -> PaperSetting:
    """The setting of this name. Raises UserError, with the nearest name, if there is none or it has no numbers."""
    if name not in paper_names():
        hint = did_you_mean(name, paper_names(), most=3)
        raise UserError(
            f"there is no published setting '{name}'.{hint} There are: {', '.join(paper_names())} (`recbole-gen "
            f"reproduce` lists them with their state)"
        )
    setting = read_paper(name)
    if setting.published is None:
        raise UserError(
            f"paper/{name}.yaml has no section `published`, so there is nothing to compare with: run it alone, "
            f"recbole-gen --paper={name}"
        )
    if setting.settings["model"] not in setting.published.rows:
        raise UserError(f"paper/{name}.yaml: `published` has no row {setting.settings['model']}, its own model's")
    return setting


def make_plan(
    setting: PaperSetting,
    given: dict[str, Any],
    baselines: Any = "all",
    is_quick: bool = False,
    options: Iterable[str] = (),
) -> Plan:
    """What is run for a setting.

    Args:
        given: the user's keys of a run. Those of training and of the model are for the setting's model alone, the
            others for all.
        baselines: ``all``, ``none``, or some of the setting's, by name.
        options: of the verb, which an unknown key may have been meant for.

    Raises UserError for keys that would make the published numbers those of something else, and for unknown baselines.
    """
    published, model = _require_published(setting), str(setting.settings["model"])
    _require_same_question(setting, given)
    files = [(str(file), read_yaml(Path(file))) for file in str(given.get("config_files") or "").split()]
    for origin, layer in files:
        _require_same_question(setting, layer, f" ({origin})")
    own_keys, selecting = _keys_of_training(model), ("model", "paper", "config_files")
    _require_known(
        model, own_keys, {key for _, layer in [*files, ("", given)] for key in layer if key not in selecting}, options
    )
    users, paper = [*files, (COMMAND_LINE, given)], (f"paper/{setting.name}.yaml", setting.settings)

    def own(layer: Layer) -> Layer:
        return layer[0], {key: value for key, value in layer[1].items() if key in own_keys}

    values = merge_layers([paper, *users])
    values = {key: value for key, value in values.items() if key not in own_keys and key not in selecting}
    _require_measured(setting, values)
    plan = Plan(setting.name, model, published, values, {model: [own(paper), *map(own, users)]})
    for label in _chosen(published, baselines, setting.name):
        settings = published.baselines[label]
        if not _is_known(str(settings.get("model", label))):
            plan.left_out[label] = f"this version has no model {settings.get('model', label)}"
            continue
        history = {k: v for k, v in setting.settings.items() if k == "MAX_ITEM_LIST_LENGTH"}
        plan.files[label] = [(paper[0], history), (f"{paper[0]}, published", settings)]
    if is_quick:
        for label, layers in plan.files.items():
            small = _small_sizes(label, values, layers)
            named = {key for origin, layer in layers for key in layer if origin in dict(users)}
            layers.append(("--quick", {key: value for key, value in small.items() if key not in named}))
    return plan


def _require_published(setting: PaperSetting) -> Published:
    if setting.published is None:
        raise UserError(f"paper/{setting.name}.yaml has no section `published`")
    return setting.published


def _require_same_question(setting: PaperSetting, given: dict[str, Any], where: str = "") -> None:
    for key, what in FIXED_KEYS.items():
        wanted = setting.name if key == "paper" else setting.settings.get(key)
        if key in given and given[key] != wanted:
            raise UserError(
                f"--{key}={given[key]}{where} would change {what}, and the published numbers are for {wanted}: leave "
                f"it out. What it gives by itself: recbole-gen --paper={setting.name} --{key}={given[key]}"
            )
    for key in keys.PROTOCOL_KEYS:
        if key in given and given[key] != setting.settings.get(key):
            raise UserError(
                f"--{key}={given[key]}{where} would change what is trained and tested on, and the published numbers "
                f"are for {setting.settings.get('protocol')}: leave it out. What it gives by itself: recbole-gen "
                f"--paper={setting.name} --{key}=..."
            )
    if "resume" in given:
        raise UserError("--resume is not for reproduce: the same command again goes on where it stopped")


def _require_known(model: str, own_keys: set[str], given: set[str], options: Iterable[str]) -> None:
    """Raise UserError for keys that neither the setting's model nor all models have: they would be baselines' alone."""
    shared = {*own_keys, *EVALUATION_KEYS, *keys.keys_of_every_model()}
    for key in sorted(given - shared):
        near = "" if keys.models_with(key) else did_you_mean(key, shared.union(options), ": did you mean '{}'?")
        raise UserError(
            f"unknown key '{key}'{near}"
            if near
            else f"unknown key '{key}': neither {model}, whose setting this is, nor every model has it, and baselines "
            f"run with what the setting's file says"
        )


def _require_measured(setting: PaperSetting, values: dict[str, Any]) -> None:
    """Raise UserError for metrics and cut-offs without those that the paper reports."""
    measured = [name.lower() for name in measured_metrics({**setting.settings, **values})]
    missing = [metric for metric in _require_published(setting).metrics if metric.lower() not in measured]
    if missing:
        keys_given = " and ".join(f"{key} {values[key]}" for key in ("metrics", "topk") if key in values)
        raise UserError(
            f"with {keys_given} the runs do not measure {', '.join(missing)}, which the paper reports: leave these "
            f"keys out, or add to what the setting has ({', '.join(measured_metrics(setting.settings))})"
        )


def _keys_of_training(model: str) -> set[str]:
    """The keys that are a single model's: of training, and of the model itself."""
    lists = keys.argument_lists()
    of_all = {*lists["General"], *lists["Evaluation"], *lists["Dataset"], *EVALUATION_KEYS}
    of_model = read_yaml(places.PROPERTIES / f"model/{model}.yaml").keys() - of_all
    return {*lists["Training"], *TRAINING_KEYS, *of_model}


def _chosen(published: Published, baselines: Any, name: str) -> list[str]:
    if baselines in ("all", "none", None, False):
        return list(published.baselines) if baselines == "all" else []
    asked = [str(each).strip() for each in (baselines if isinstance(baselines, list) else str(baselines).split(","))]
    if not any(asked):
        raise UserError(f"--baselines names none: all, none, or some of {', '.join(published.baselines)}")
    for label in asked:
        if label not in published.baselines:
            raise UserError(
                f"--baselines: {name} has no baseline '{label}' that is run.{did_you_mean(label, published.baselines)} "
                f"There are: {', '.join(published.baselines) or 'none'}; or all, or none"
            )
    return asked


def _is_known(model: str) -> bool:
    """Whether there is such a model; of a class of the user's own its import tells."""
    plain = model.removeprefix("recbole.")
    return ":" in model or model in registry.MODELS or plain in registry.recbole_model_names()


def _small_sizes(label: str, values: dict[str, Any], layers: Sequence[Layer]) -> dict[str, Any]:
    """The keys of QUICK in which the model has more."""
    all_layers = [("", {"model": label}), *layers, (COMMAND_LINE, values)]
    info = registry.model_info(str(merge_layers(all_layers)["model"]))
    if info is None:
        return {}
    selected = selected_run(all_layers)
    now = merge_layers([*shipped_layers(info, selected)[0], *all_layers])
    return {key: most for key, most in QUICK.items() if is_number(now.get(key)) and now[key] > most}
