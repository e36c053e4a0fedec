"""RecBole's Config with our layers: no `eval`, no hidden `sys.argv`, no unknown keys, and the origin of every value.

Later layers win: RecBole's overall.yaml and what it adds for a kind of model -> ours -> model -> data set -> protocol
-> paper -> the run that is resumed -> the user's files -> dict -> command line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from recbole.config import Config as RecBoleConfig
from recbole.utils import InputType, ModelType

from recbole_gen.config import keys, places, registry
from recbole_gen.config.key_table import key_table
from recbole_gen.config.keys import RESUMED, Layer
from recbole_gen.config.layers import merge_layers, read_user_layers, selected_run, shipped_layers
from recbole_gen.config.value_checks import Checks, as_list
from recbole_gen.errors import UserError
from recbole_gen.evaluation import user_metrics
from recbole_gen.options import YamlLoader
from recbole_gen.reading.item_vectors import find_vector_file
from recbole_gen.reading.semantic_ids import find_id_file


class Config(RecBoleConfig):
    """The merged configuration of a run; `config[key]` is None for a key that no layer sets, as in RecBole.

    Args:
        model: a name (see `registry.resolve_model`) or a class; None to take it from the layers.
        dataset: name of a data set; None to take it from the layers.
        config_file_list: the user's YAML files, later ones win.
        config_dict: values that win over the files.
        argv: command line arguments that win over everything. Nothing is read from `sys.argv`.
        stored: `settings()` of the run that goes on; the user's layers win over it. Classes of somebody's own that it
            alone names are not imported, see `registry.require_named`.
        needs_data: whether the data set must be here; without one nothing is evaluated.
        needs_metrics: whether anything is going to be evaluated; if not, metrics of the user's own are not imported,
            and are not in `config["metrics"]`.

    Attributes:
        origins: key -> the layer that set it.
        table: what the value of each key may be.
        is_recbole_model: whether the model's class is RecBole's own.
        chosen: the keys that the user has set, for this run or in his files.
        ignored: a line about each key of other models that the user's files have.
        missing_settings: the YAML file that a class of the user's own could have beside it, and has not, or None.

    Raises UserError for bad input: unknown keys, models, protocols, papers, data sets, missing or broken files.
    """

    _read: dict[str, list[Any]] | None = None

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | Path] | None = None,
        config_dict: dict[str, Any] | None = None,
        argv: Sequence[str] = (),
        stored: dict[str, Any] | None = None,
        needs_data: bool = True,
        needs_metrics: bool = True,
    ):
        self.compatibility_settings()
        self.parameters = keys.argument_lists()
        self.yaml_loader = YamlLoader
        user_layers = [(RESUMED, stored or {}), *read_user_layers(config_file_list, config_dict, argv)]
        selected = selected_run(user_layers, model, dataset)
        if not (model or merge_layers(user_layers[1:]).get("model")):
            registry.require_named(selected.model, "model")
        choice = registry.resolve_model(selected.model)
        self.model, self.model_class, self.is_recbole_model = choice.name, choice.model_class, choice.is_recbole
        self.dataset, self.missing_settings = selected.dataset, choice.info.missing_settings

        shipped, protocol = shipped_layers(choice.info, selected)
        given, self.ignored = keys.require_known_keys(choice.info, shipped, [selected.paper, *user_layers])
        self._merge([*shipped, *given])
        self.defaults = merge_layers(shipped)
        self.chosen = {key for origin, layer in given if origin != RESUMED for key in layer}
        values = self.final_config_dict
        values.update(model=self.model, dataset=self.dataset, protocol=protocol)
        self._choose_negative_sampling(shipped)
        self._choose_columns()
        metrics, own = values["metrics"], self._choose_metrics(needs_data and needs_metrics)
        checks = Checks(values, self.origins)
        self.table = key_table(choice.info)
        checks.check_values(self.table, shipped)
        checks.check_eval_args()
        checks.check_metrics(self.model_class, own, needs_data and needs_metrics)
        self._settings = {key: _to_plain_data(values[key]) for key in sorted(values)}
        self._settings["metrics"] = _to_plain_data(metrics)
        given_model = selected.model
        self._settings["model"] = (
            registry.class_path(given_model) if isinstance(given_model, type) else str(given_model)
        )
        values["MODEL_TYPE"] = self.model_class.type
        self._require_input_type(choice.info.settings)
        folder = values["data_path"]
        if needs_data:
            if values["item_vectors"]:
                find_vector_file(values["item_vectors"])
            if values.get("semantic_ids"):
                find_id_file(values["semantic_ids"])
            folder = places.find_dataset(self.dataset, folder, values.get("benchmark_filename"))
        for step in (self._set_default_parameters, self._init_device, self._set_train_neg_sample_args):
            _as_user_error(step)
        for phase in ("valid", "test"):
            _as_user_error(lambda phase=phase: self._set_eval_neg_sample_args(phase))
        if values.get("MODEL_INPUT_TYPE") is None:
            raise UserError(f"loss_type must be CE or BPR, got {values.get('loss_type')!r}")
        # SINE calls itself pairwise and takes the CE loss all the same.
        is_pairwise = values["MODEL_INPUT_TYPE"] == InputType.PAIRWISE and values.get("loss_type") != "CE"
        if is_pairwise and values["train_neg_sample_args"]["sample_num"] == "none":
            raise UserError(
                f"{self.model} learns from pairs and needs train_neg_sample_args, such as "
                f"{{distribution: uniform, sample_num: 1}}"
            )
        values["data_path"] = str(folder)  # RecBole's checks have put its own guess there
        user_metrics.check_value_names(self)

    def _require_input_type(self, settings: Path | None) -> None:
        """Raise UserError for a class of the user's own that does not say what it learns from."""
        if hasattr(self.model_class, "input_type") or "loss_type" in self.final_config_dict:
            return
        raise UserError(
            f"the class {self.model} does not say what it learns from. It needs an attribute: `input_type = "
            f"InputType.POINTWISE` (from recbole.utils import InputType) for the target of each row alone, "
            f"InputType.PAIRWISE for a sampled item beside it. A model that has both losses says so in {settings}, "
            f"with a line `loss_type: CE` or `loss_type: BPR`"
        )

    def _merge(self, layers: Sequence[Layer]) -> None:
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for origin, layer in layers:
            for key, value in layer.items():
                if key == "eval_args" and isinstance(value, dict) and isinstance(values.get(key), dict):
                    value = {**values[key], **value}  # a new split keeps the protocol's order and mode
                values[key], origins[key] = value, origin
        self.final_config_dict, self.origins = values, origins
        self.internal_config_dict: dict[str, Any] = {}
        self.external_config_dict: dict[str, Any] = {}

    def _choose_metrics(self, needs_metrics: bool) -> list[str]:
        """Put the names of the user's own metrics in place of their paths; returns these names.

        Where nothing is evaluated they are left out: a checkpoint must not have modules imported that nobody asks for.
        """
        values = self.final_config_dict
        given = as_list(values["metrics"])
        paths = [name for name in given if user_metrics.is_class_path(name)]
        if not paths:
            return []
        if needs_metrics:
            for path in paths if self.origins["metrics"] == RESUMED else []:
                registry.require_named(path, "metrics")
            values["metrics"] = user_metrics.register_metrics(given)
            return user_metrics.register_metrics(paths)
        mode = (values["eval_args"] or {}).get("mode") if isinstance(values["eval_args"], dict) else None
        is_labeled = "labeled" in (mode.values() if isinstance(mode, dict) else [mode])
        values["metrics"] = [name for name in given if name not in paths] or ["AUC" if is_labeled else "NDCG"]
        return []

    def _choose_columns(self) -> None:
        """Without a `load_col`, RecBole loads users and items only; here also their times and, from split files, the
        histories."""
        if self.origins["load_col"] != "RecBole sample.yaml":
            return
        values, suffix = self.final_config_dict, self.final_config_dict["LIST_SUFFIX"]
        fields = [values[key] for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")]
        if values.get("benchmark_filename"):
            fields += [f"{field}{suffix}" for field in fields[1:]]
        values["load_col"] = {"inter": [field for field in fields if field]}
        self.origins["load_col"] = "USER_ID_FIELD, ITEM_ID_FIELD and TIME_FIELD"

    def _choose_negative_sampling(self, layers: list[Layer]) -> None:
        """Our `train_neg_sample_args: ~` is for models that take none; the others keep RecBole's unless told otherwise.

        With RecBole's default, half of a batch of a pointwise model has a sampled item in the column of the target.
        """
        if self.origins["train_neg_sample_args"] != "overall.yaml":
            return
        values = self.final_config_dict
        is_sequential = self.model_class.type == ModelType.SEQUENTIAL
        by_loss = InputType.PAIRWISE if values.get("loss_type") == "BPR" else None
        is_pairwise = getattr(self.model_class, "input_type", by_loss) == InputType.PAIRWISE
        if not (self.is_recbole_model or is_pairwise) or (is_sequential and values.get("loss_type") == "CE"):
            return
        if self.model_class.type == ModelType.TRADITIONAL:
            return  # Pop would count the sampled items too; the others have no loss
        values["train_neg_sample_args"] = dict(layers[0][1]["train_neg_sample_args"])
        self.origins["train_neg_sample_args"] = layers[0][0]

    @contextlib.contextmanager
    def recording_reads(self) -> Iterator[dict[str, list[Any]]]:
        """Note the keys that are read meanwhile: key -> [value at the first read, plain], or [] where none is set.

        One within another notes for both."""
        before, read = self._read, dict[str, list[Any]]()
        self._read = read
        try:
            yield read
        finally:
            self._read = before
            if before is not None:
                before.update(read | before)

    def _note_read(self, key: str) -> None:
        if self._read is not None and key not in self._read:
            values = self.final_config_dict
            self._read[key] = [_to_plain_data(values[key])] if key in values else []

    def __getitem__(self, item):
        self._note_read(item)
        return super().__getitem__(item)

    def __contains__(self, key):
        self._note_read(key)
        return super().__contains__(key)

    def __getattr__(self, item):  # called for what is no attribute: RecBole then looks for a key
        self._note_read(item)
        return super().__getattr__(item)

    def settings(self) -> dict[str, Any]:
        """What all layers together say, as JSON can hold it; given as `config_dict`, the same configuration again."""
        return dict(self._settings)

    def describe(self) -> str:
        """One line a key: value and origin, as YAML with comments."""
        lines = []
        for key, value in self._settings.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
            lines.append(f"{f'{key}: {text}':<60}  # {self.origins.get(key, 'given')}")
        notes = [*self.ignored, *([self.missing_settings_note()] if self.missing_settings else [])]
        return "\n".join([*lines, *(f"# {note}" for note in notes)])

    def missing_settings_note(self) -> str:
        """Where a class of the user's own could have defaults, and has none; for one with ``missing_settings``."""
        return f"there is no {self.missing_settings}, where {self.model} would have the defaults of its own keys"


def _to_plain_data(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _to_plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_to_plain_data(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _as_user_error(step) -> None:
    """RecBole's checks of the configuration raise built-in exceptions; what they reject is the user's."""
    try:
        step()
    except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError) as error:
        raise UserError(str(error)) from error
