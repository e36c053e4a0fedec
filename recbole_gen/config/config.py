"""RecBole's Config with our layers: no `eval`, no hidden `sys.argv`, no unknown keys, and the origin of every value.

Later layers win: RecBole's overall.yaml and what it adds for a kind of model -> ours -> model -> data set -> protocol
-> paper -> the run that is resumed -> the user's files -> dict -> command line.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import re
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import recbole
import yaml
from recbole.config import Config as RecBoleConfig
from recbole.evaluator import metric_types
from recbole.evaluator.register import metrics_dict
from recbole.utils import InputType, ModelType
from recbole.utils.argument_list import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_gen.config import registry
from recbole_gen.config.layers import Layer, merge_layers, read_user_layers
from recbole_gen.data.held_out import KINDS as SET_SPLITS
from recbole_gen.data.held_out import POSITIVES
from recbole_gen.data.scenes import RULES as SCENE_RULES
from recbole_gen.data.splits import KINDS as SPLITS
from recbole_gen.data.splits import TRAIN_PAIRS
from recbole_gen.data.times import TIME_RANGES
from recbole_gen.errors import MissingDataset, UserError, did_you_mean
from recbole_gen.options import YamlLoader, is_number, is_whole, read_yaml
from recbole_gen.prepare import missing_dataset

RECBOLE_PROPERTIES = Path(recbole.__file__).parent / "properties"
_HERE = Path(__file__).resolve().parents[1]
ROOT = _HERE.parent if (_HERE.parent / "properties/overall.yaml").is_file() else _HERE
"""Where properties/ and dataset/ lie: the top of the repository, or inside an installed package."""
PROPERTIES = ROOT / "properties"

DEFAULT_PROTOCOL = "leave_one_out"
# Keys that RecBole's code reads without a default in its YAML files, and those that choose the layers.
UNLISTED_KEYS = {
    "model", "dataset", "protocol", "paper", "resume", "MODEL_INPUT_TYPE", "reg_weight", "embedding_size",
    "user_defined_transform",
}  # fmt: skip
# Caches that RecBole reads back with pickle.
PICKLES = ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path")


_STRICT_LAYERS = ("RecBole overall.yaml", "RecBole sample.yaml", "overall.yaml")
TEXT_TOO = ("reranker_CAN_NUM", "period_start")
"""Keys with a number for a default that also take text ("100,50", a date)."""
SWITCH_TOO = ("data_cache",)
"""Keys with text for a default that also take True and False."""
LEAST = {
    "epochs": 0, "train_batch_size": 1, "eval_batch_size": 1, "eval_step": 0, "stopping_step": 0, "seed": 0,
    "worker": 0, "num_threads": 0, "nproc": 1, "MAX_ITEM_LIST_LENGTH": 1, "n_heads": 1, "n_layers": 1, "window_step": 1,
    "last_events": 2, "future_events": 1, "least_history": 1, "least_future": 1,
}  # fmt: skip
MAPPINGS = (
    "eval_args", "train_neg_sample_args", "clip_grad_norm", "load_col", "unload_col", "unused_col", "val_interval",
    "seq_len", "threshold", "preload_weight", "discretization",
)  # fmt: skip
LISTS = ("normalize_field", "alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id")
CHOICES = {
    "train_pairs": TRAIN_PAIRS, "time_range": TIME_RANGES, "positives": POSITIVES, "scene_rule": (None, *SCENE_RULES),
    "group_metrics": (None, "length"), "mask_seen": (None, True, False),
}  # fmt: skip
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
PARTS = {
    "eval_args": ("split", "group_by", "order", "mode"),
    "train_neg_sample_args": ("distribution", "sample_num", "alpha", "dynamic", "candidate_num"),
}
_METRICS_WITHOUT_K = ("auc", "gauc", "logloss", "mae", "rmse")


class Config(RecBoleConfig):
    """The merged configuration of a run; `config[key]` is None for a key that no layer sets, as in RecBole.

    Args:
        model: a name (see `registry.resolve`) or a class; None to take it from the layers.
        dataset: name of a data set; None to take it from the layers.
        config_file_list: the user's YAML files, later ones win.
        config_dict: values that win over the files.
        argv: command line arguments that win over everything. Nothing is read from `sys.argv`.
        stored: `settings()` of the run that goes on; the user's layers win over it.
        needs_data: whether the data set must be here.

    Attributes:
        origins: key -> the layer that set it.
        is_recbole_model: whether the model's class is RecBole's own.

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
    ):
        self.compatibility_settings()
        self.parameters = {
            "General": list(general_arguments),
            "Training": list(training_arguments),
            "Evaluation": list(evaluation_arguments),
            "Dataset": list(dataset_arguments),
        }
        self.yaml_loader = YamlLoader
        user_layers = [("resumed run", stored or {}), *read_user_layers(config_file_list, config_dict, argv)]
        user = merge_layers(user_layers)
        paper = user.get("paper")
        paper_layer: Layer = ("paper", {})
        if paper:
            paper_layer = (f"paper/{paper}.yaml", read_yaml(_named("paper", paper)))
        chosen = {**paper_layer[1], **user}
        choice = registry.resolve(_required(model or chosen.get("model"), "model"))
        self.model, self.model_class, self.is_recbole_model = choice.name, choice.model_class, choice.is_recbole
        self.dataset = str(_required(dataset or chosen.get("dataset"), "dataset"))

        layers = self._internal_layers()
        protocol = chosen.get("protocol", DEFAULT_PROTOCOL if _ranks_all_items(layers) else None)
        if protocol:
            layers.append((f"protocol/{protocol}.yaml", read_yaml(_named("protocol", protocol))))
        self._merge(layers, [paper_layer, *user_layers])
        values = self.final_config_dict
        values.update(model=self.model, dataset=self.dataset, protocol=protocol)
        self._choose_negative_sampling(layers)
        self._choose_columns()
        self._check_kinds(layers)
        self._check_values()
        self._settings = {key: _plain(values[key]) for key in sorted(values)}
        given = model or chosen["model"]
        self._settings["model"] = model_path(given) if isinstance(given, type) else str(given)
        values["MODEL_TYPE"] = self.model_class.type
        folder = find_dataset(self.dataset, values["data_path"]) if needs_data else values["data_path"]
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

    def _internal_layers(self) -> list[Layer]:
        """RecBole's and our files for the model and the data set, in the order in which they win."""
        model_type, name = self.model_class.type, self.model
        kind = {
            ModelType.CONTEXT: "context-aware.yaml",
            ModelType.DECISIONTREE: "context-aware.yaml",
            ModelType.KNOWLEDGE: "knowledge_base.yaml",
            ModelType.SEQUENTIAL: "sequential.yaml",
        }.get(model_type)
        special = None
        if self.is_recbole_model and model_type == ModelType.SEQUENTIAL:
            if name in ("DIN", "DIEN"):
                kind, special = "sequential_DIN.yaml", "sequential_DIN_on_ml-100k.yaml"
            elif name in ("GRU4RecKG", "KSR"):
                kind = "sequential_embedding_model.yaml"
            elif name in ("GRU4RecF", "SASRecF", "FDSA", "S3Rec"):
                special = "special_sequential_on_ml-100k.yaml"
        elif kind == "context-aware.yaml":
            special = "context-aware_ml-100k.yaml"

        start = "quick_start_config"
        model_file = PROPERTIES / f"model/{name}.yaml"
        if not self.is_recbole_model and self.model_class.__module__ != registry.MODELS.get(name):
            source = getattr(sys.modules[self.model_class.__module__], "__file__", None)  # a notebook has none
            model_file = Path(source or name).with_name(f"{name}.yaml")
        paths = [
            (RECBOLE_PROPERTIES / "overall.yaml", "RecBole overall.yaml"),
            (RECBOLE_PROPERTIES / "dataset/sample.yaml", "RecBole sample.yaml"),
            (PROPERTIES / "overall.yaml", "overall.yaml"),
            (RECBOLE_PROPERTIES / f"{start}/{kind}", f"RecBole {kind}"),
            (RECBOLE_PROPERTIES / f"model/{name}.yaml", f"RecBole model/{name}.yaml"),
            (model_file, f"model/{name}.yaml"),
            (RECBOLE_PROPERTIES / f"dataset/{self.dataset}.yaml", f"RecBole dataset/{self.dataset}.yaml"),
            (PROPERTIES / f"dataset/{self.dataset}.yaml", f"dataset/{self.dataset}.yaml"),
            (RECBOLE_PROPERTIES / f"{start}/{special}", f"RecBole {special}"),
        ]
        layers: list[Layer] = []
        for path, origin in paths:
            if origin == f"RecBole model/{name}.yaml" and not self.is_recbole_model:
                continue  # RecBole has another model of that name
            if origin == f"RecBole {special}" and self.dataset != "ml-100k":
                continue
            if origin == f"model/{name}.yaml" and self.is_recbole_model and name in registry.MODELS:
                continue  # and that is the one meant, recbole.NAME
            if not path.is_file():
                continue
            layer = read_yaml(path)
            if origin == f"RecBole dataset/{self.dataset}.yaml":
                # It repeats RecBole's defaults, which must not win over what a model sets, and the file for the kind of
                # model (knowledge_base.yaml loads .kg and .link) wins over it in RecBole, too.
                defaults, of_kind = layers[0][1] | layers[1][1], dict(layers).get(f"RecBole {kind}", {})
                layer = {key: value for key, value in layer.items() if key not in defaults or value != defaults[key]}
                layer = {key: value for key, value in layer.items() if key not in of_kind}
            layers.append((origin, layer))
        return layers

    def _merge(self, shipped: list[Layer], given: list[Layer]) -> None:
        """Lay the layers over each other; what the user gives may only name keys that something reads."""
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for origin, layer in [*shipped, *given]:
            for key, value in layer.items():
                if key == "eval_args" and isinstance(value, dict) and isinstance(values.get(key), dict):
                    value = {**values[key], **value}  # a new split keeps the protocol's order and mode
                values[key], origins[key] = value, origin
        known = {key for _, layer in shipped for key in layer}
        known.update(UNLISTED_KEYS, *self.parameters.values())
        unknown = {key: origin for origin, layer in given for key in layer if key not in known}
        if unknown:
            raise UserError(self._describe_unknown(unknown, known))
        self.final_config_dict, self.origins = values, origins
        self.internal_config_dict: dict[str, Any] = {}
        self.external_config_dict: dict[str, Any] = {}

    def _describe_unknown(self, unknown: dict[Any, str], known: set[str]) -> str:
        lines = []
        for key, origin in unknown.items():
            near = difflib.get_close_matches(str(key), known, n=1)
            owners = [
                file.stem
                for folder in (PROPERTIES, RECBOLE_PROPERTIES)
                for file in sorted((folder / "model").glob("*.yaml"))
                if key in read_yaml(file)
            ]
            hint = f": did you mean '{near[0]}'?" if near else "."
            if owners:
                hint = f" for {self.model}: it is a key of {', '.join(owners[:4])}" + (" ..." if owners[4:] else ".")
            lines.append(f"unknown key '{key}' ({origin}){hint}")
        return "\n".join([*lines, "--print-config shows every key of a run with its value and origin."])

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
        is_pairwise = getattr(self.model_class, "input_type", None) == InputType.PAIRWISE
        if not (self.is_recbole_model or is_pairwise) or (is_sequential and values.get("loss_type") == "CE"):
            return
        if self.model_class.type == ModelType.TRADITIONAL:
            return  # Pop would count the sampled items too; the others have no loss
        values["train_neg_sample_args"] = dict(layers[0][1]["train_neg_sample_args"])
        self.origins["train_neg_sample_args"] = layers[0][0]

    def _check_kinds(self, shipped: list[Layer]) -> None:
        """A value must be of the kind of its default: a number, a switch, or text (which a number is turned into).

        RecBole's models and the user's own are less strict: a default of 1 may be a float's, or a switch's.
        """
        strict: dict[str, Any] = {}
        loose: dict[str, Any] = {}
        for origin, layer in shipped:
            if origin in _STRICT_LAYERS or (origin == f"model/{self.model}.yaml" and self.model in registry.MODELS):
                strict.update(layer)
            elif "model/" in origin:
                loose.update(layer)
        values = self.final_config_dict
        for key, default in {**loose, **strict}.items():
            value, text = values[key], isinstance(values[key], str)
            if isinstance(default, str) and is_number(value):
                values[key] = str(value)
            elif isinstance(default, str) and isinstance(value, bool) and key not in SWITCH_TOO:
                self._refuse(key, "text")
            elif isinstance(default, bool) and (text or (key in strict and value not in (True, False))):
                self._refuse(key, "True or False")
            elif is_number(default) and key not in TEXT_TOO:
                whole = key in strict and isinstance(default, int)
                if text or (key in strict and not (isinstance(value, int) if whole else is_number(value))):
                    self._refuse(key, "a whole number" if whole else "a number")

    def _refuse(self, key: str, wanted: str) -> NoReturn:
        raise UserError(f"{key} must be {wanted}, got {self.final_config_dict[key]!r} ({self.origins.get(key)})")

    def _check_values(self) -> None:
        values = self.final_config_dict
        for key in PICKLES:
            if values.get(key):
                raise UserError(f"{key} is not supported (RecBole would read the file with pickle): leave it unset")
        for key, value in values.items():
            if key in LEAST and value is not None and not (is_whole(value) and value >= LEAST[key]):
                self._refuse(key, f"a whole number of at least {LEAST[key]}")
            if key.endswith("_size") and is_number(value) and value < 1:
                self._refuse(key, "at least 1")
            if ("dropout" in key or key.endswith("_prob")) and is_number(value) and not 0 <= value <= 1:
                self._refuse(key, "from 0 to 1")
            if key in MAPPINGS and not (value is None or isinstance(value, dict)):
                self._refuse(key, "a mapping such as {key: value} (a value with brackets or commas in it needs quotes)")
            if key in LISTS and not (value is None or isinstance(value, list)):
                self._refuse(key, "a list such as [name]")
        for key in (
            "data_path",
            "checkpoint_dir",
            "learner",
            "field_separator",
            "seq_separator",
            "TOI_FIELD",
            "SCENE_FIELD",
        ):
            if not values[key]:
                self._refuse(key, "text that is not empty")
        for key, choices in CHOICES.items():
            if values[key] not in choices:
                self._refuse(key, f"one of {', '.join('~' if choice is None else str(choice) for choice in choices)}")
        use = values["data_cache"]
        if not (isinstance(use, bool) or (isinstance(use, str) and use.strip())):
            self._refuse("data_cache", "auto, True, False or a folder")
        if str(values["state"]).upper() not in LOG_LEVELS:
            self._refuse("state", f"one of {', '.join(LOG_LEVELS)}")
        if not 0 < values["learning_rate"] < math.inf:
            self._refuse("learning_rate", "a positive number")
        if not 0 <= values["weight_decay"] < math.inf:
            self._refuse("weight_decay", "0 or a positive number")
        if values["seed"] >= 2**32:
            self._refuse("seed", "less than 2**32")
        clip = values["clip_grad_norm"]
        if clip and not (clip.keys() <= {"max_norm", "norm_type"} and is_number(clip.get("max_norm"))):
            self._refuse("clip_grad_norm", "a mapping such as {max_norm: 1.0}")
        for key, parts in PARTS.items():
            for part in values[key] or {}:
                if part not in parts:
                    raise UserError(f"{key} has no '{part}' ({self.origins[key]}): its parts are {', '.join(parts)}")
        number = (values["train_neg_sample_args"] or {}).get("sample_num", 1)
        if not (is_whole(number) and number > 0):
            self._refuse("train_neg_sample_args", "a mapping with a positive whole number as sample_num")
        self._check_eval_args()
        self._check_metrics()

    def _check_eval_args(self) -> None:
        """What `recbole_gen.data.splits` and RecBole would find out only after loading the data set, or never."""
        given = self.final_config_dict["eval_args"] or {}
        mode, split, group = given.get("mode", "full"), given.get("split"), str(given.get("group_by")).lower()
        modes = list(mode.values()) if isinstance(mode, dict) else [mode]
        if not all(re.fullmatch(r"full|labeled|(uni|pop)[1-9]\d*", str(each)) for each in modes):
            raise UserError(f"eval_args: mode must be full, labeled, uni100 or pop100 (or so), got {mode!r}")
        if given.get("order", "RO") not in ("RO", "TO"):
            raise UserError(f"eval_args: order must be RO (random) or TO (by time), got {given['order']!r}")
        if group not in ("user", "none"):
            raise UserError(f"eval_args: group_by must be user or none, got {given['group_by']!r}")
        if split is None and self.final_config_dict["benchmark_filename"]:
            return
        if not isinstance(split, dict) or len(split) != 1 or not split.keys() <= set(SPLITS):
            raise UserError(f"eval_args: split must be one of {', '.join(SPLITS)} with its value, got {split!r}")
        ((kind, shares),) = split.items()
        if kind in SET_SPLITS and set(modes) != {"full"}:
            raise UserError(
                f"a protocol whose targets are sets ranks all items: eval_args: mode must be full, got {mode!r}"
            )
        if kind == "LS":
            return
        numbers = isinstance(shares, list) and len(shares) == 3 and all(map(is_number, shares))
        if not (numbers and shares[0] > 0 and min(shares) >= 0):
            raise UserError(f"eval_args: split: {kind} needs three shares such as [8, 1, 1], got {shares!r}")

    def _check_metrics(self) -> None:
        values = self.final_config_dict
        names, topk = _as_list(values["metrics"]), _as_list(values["topk"])
        if not all(is_whole(k) and k > 0 for k in _as_list(values["scene_topk"])):
            self._refuse("scene_topk", "a positive whole number or a list of them")
        for name in names:
            if str(name).lower() not in metric_types:
                near = difflib.get_close_matches(str(name).lower(), metric_types, n=1)
                hint = f" Did you mean {metrics_dict[near[0]].__name__}?" if near else ""
                known = ", ".join(metric.__name__ for metric in metrics_dict.values())
                raise UserError(f"there is no metric '{name}'.{hint} There are: {known}")
        if not all(is_whole(k) and k > 0 for k in topk):
            self._refuse("topk", "a positive whole number or a list of them")
        plain = [name for name in names if name.lower() in _METRICS_WITHOUT_K]
        computed = [*plain, *(f"{name}@{k}" for name in names if name not in plain for k in topk)]
        split = (values["eval_args"] or {}).get("split") or ()
        if values["positives"] == "both" and not values["benchmark_filename"] and next(iter(split), None) in SET_SPLITS:
            computed += [f"period_{name}" for name in computed]
        if hasattr(self.model_class, "full_sort_predict_scene"):
            computed += [f"scene_{name}@{k}" for name in names for k in _as_list(values["scene_topk"])]
        if str(values["valid_metric"]).lower() not in [name.lower() for name in computed]:
            raise UserError(
                f"valid_metric {values['valid_metric']} is not among the metrics computed: {', '.join(computed)}"
            )

    @contextlib.contextmanager
    def recording(self) -> Iterator[dict[str, list[Any]]]:
        """Note the keys that are read meanwhile: key -> [value at the first read, plain], or [] where none is set."""
        read: dict[str, list[Any]] = {}
        self._read = read
        try:
            yield read
        finally:
            self._read = None

    def _note(self, key: str) -> None:
        if self._read is not None and key not in self._read:
            values = self.final_config_dict
            self._read[key] = [_plain(values[key])] if key in values else []

    def __getitem__(self, item):
        self._note(item)
        return super().__getitem__(item)

    def __contains__(self, key):
        self._note(key)
        return super().__contains__(key)

    def __getattr__(self, item):  # called for what is no attribute: RecBole then looks for a key
        self._note(item)
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
        return "\n".join(lines)


def model_path(model: type) -> str:
    """The name under which `registry.resolve` finds a class again."""
    return f"{model.__module__}:{model.__qualname__}"


def find_dataset(name: str, data_path: str) -> Path:
    """The folder of a data set: under ``data_path``, under our dataset/, or ml-100k inside the recbole package.

    Raises MissingDataset that says where it was looked for and how to get it.
    """
    places = [Path(data_path) / name, ROOT / "dataset" / name]
    if name == "ml-100k":
        places.append(RECBOLE_PROPERTIES.parent / "dataset_example/ml-100k")
    for place in places:
        if any(file.name.startswith(name) for file in place.glob("*.inter")):
            return place.resolve()
    looked = "\n  ".join(dict.fromkeys(str((place / f"{name}.inter").absolute()) for place in places))
    url = read_yaml(RECBOLE_PROPERTIES / "dataset/url.yaml").get(name)
    source = (
        f"RecBole offers it as atomic files at {url} : unpack them into {places[0]}/."
        if url
        else "Write it as atomic files (a tab-separated table with a title line such as "
        "'user_id:token<tab>item_id:token<tab>timestamp:float')."
    )
    if missing_dataset.has_recipe(name):
        source = f"`recbole-gen prepare {name}` makes it. {source if url else ''}".strip()
    raise MissingDataset(
        f"there is no data set '{name}'. Looked for\n  {looked}\n{source} "
        f"--data_path=FOLDER names another folder. To try things out: --dataset=ml-100k, which needs no download.",
        name,
        str(data_path),
    )


def _ranks_all_items(layers: list[Layer]) -> bool:
    """Whether the model is evaluated by ranking (RecBole rates DIN and the context-aware models by AUC)."""
    return "AUC" not in merge_layers(layers)["metrics"]


def _named(folder: str, name: str) -> Path:
    path = PROPERTIES / folder / f"{name}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise UserError(f"there is no {folder} '{name}'.{did_you_mean(name, names)} There are: {', '.join(names)}")
    return path


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _required(value: Any, key: str) -> Any:
    if value is None or value is True:
        raise UserError(f"no {key} given: say --{key}=... (for a first try: --model=DreamRec --dataset=ml-100k)")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
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
