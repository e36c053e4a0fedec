"""Settings that name columns: each is found in the title lines of the files, and loaded, before anything else is.

RecBole finds out while it loads, at the place of use, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.data import dataset as recbole_datasets
from recbole.utils import InputType, ModelType

from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import is_number, is_whole
from recbole_gen.reading.rules import title_line

INTER, USER, ITEM, KG, LINK = "inter", "user", "item", "kg", "link"
FLOATS, TOKENS = ("float", "float_seq"), ("token", "token_seq")
SEQUENCES, ANY = ("token_seq", "float_seq"), (*TOKENS, *FLOATS)


def _one(value: Any) -> list:
    return [value]


def _values(value: Any) -> list:
    return list(value.values())


def _nested(value: Any) -> list:
    return [name for names in value.values() for name in names]


def _always(_config) -> bool:
    return True


@dataclass(frozen=True)
class ColumnKey:
    """A key whose value names columns.

    Attributes:
        types: what a column may be, as in the title line.
        names: the columns that a value names.
        files: endings of the files that it may be in, the first that has it wins; () for every file that can be loaded.
        is_read: whether anything in a run of this configuration reads it.
    """

    key: str
    types: tuple[str, ...] = ANY
    names: Callable[[Any], list] = list
    files: tuple[str, ...] = ()
    is_read: Callable[[Any], bool] = _always


def special_dataset_class(config):
    """The data set class that RecBole has for this one model, or None."""
    return getattr(recbole_datasets, f"{config['model']}Dataset", None) if config.is_recbole_model else None


def _reads_ratings(config) -> bool:
    return config["model"] == "DMF" and config["inter_matrix_type"] == "rating"


def reads_labels(config) -> bool:
    """Whether training or evaluation takes 0 and 1 from the data, not from items that are sampled as negatives."""
    mode = (config["eval_args"] or {}).get("mode")
    if "labeled" in (mode.values() if isinstance(mode, dict) else [mode]):
        return True
    sampling = config["train_neg_sample_args"] or {}
    if sampling.get("distribution", "none") != "none" or config["MODEL_INPUT_TYPE"] != InputType.POINTWISE:
        return False
    kind = config["MODEL_TYPE"]
    if kind == ModelType.SEQUENTIAL:
        return config.is_recbole_model and config["model"] in ("DIN", "DIEN")
    return config.is_recbole_model and kind != ModelType.TRADITIONAL


COLUMN_KEYS = (
    ColumnKey("val_interval", ("float", "token"), list),
    ColumnKey("threshold", ("float",), list, (INTER,)),
    ColumnKey("normalize_field", FLOATS),
    ColumnKey("numerical_features", FLOATS),
    ColumnKey("discretization", FLOATS, list),
    ColumnKey("preload_weight", ("token",), list),
    ColumnKey("preload_weight", FLOATS, _values),
    *(ColumnKey(f"alias_of_{name}_id", TOKENS) for name in ("user", "item", "entity", "relation")),
    ColumnKey("seq_len", SEQUENCES, list),
    ColumnKey("selected_features", ANY, files=(ITEM,)),
    ColumnKey("fields", ANY, _nested),
    ColumnKey("item_attribute", TOKENS, _one, (ITEM,)),
    ColumnKey("RATING_FIELD", ("float",), _one, (INTER,), _reads_ratings),
    ColumnKey("LABEL_FIELD", ("float",), _one, (INTER,), reads_labels),
)
"""Every key of RecBole's that names columns, but for USER_ID_FIELD, ITEM_ID_FIELD, TIME_FIELD and the fields of a
knowledge graph, without which nothing is loaded, and SCENE_FIELD, see `recbole_gen.data.scenes`."""
COLUMN_LISTS = ("load_col", "unload_col", "unused_col")
"""Keys that name columns by the ending of their file."""
FILTERS = ("val_interval", "user_inter_num_interval", "item_inter_num_interval", "rm_dup_inter")
"""Keys that RecBole does not apply to files that are split already."""


class Titles:
    """The title lines of the files that a run can load: ending -> column -> type.

    Raises UserError for split files of which one lacks a column that another has.
    """

    def __init__(self, config):
        self.config, self.of = config, {}
        parts = config["benchmark_filename"]
        if parts:
            of_parts = [read_titles(config, self.path(f"{part}.{INTER}")) for part in parts]
            for part, titles in zip(parts, of_parts, strict=True):
                for column in of_parts[0].keys() ^ titles.keys():
                    missing = part if column in of_parts[0] else parts[0]
                    if self.is_loaded(INTER, column):
                        raise UserError(
                            f"the split files of '{config['dataset']}' have not the same columns: "
                            f"{self.path(f'{missing}.{INTER}')} lacks '{column}'"
                        )
            self.of[INTER] = of_parts[0]
        for ending in file_endings(config):
            if ending not in self.of and self.path(ending).is_file():
                self.of[ending] = read_titles(config, self.path(ending))

    def path(self, ending: str) -> Path:
        return Path(self.config["data_path"]) / f"{self.config['dataset']}.{ending}"

    @property
    def interaction_file(self) -> Path:
        """The file of interactions, or the first of them."""
        parts = self.config["benchmark_filename"]
        return self.path(f"{parts[0]}.{INTER}" if parts else INTER)

    def is_loaded(self, ending: str, column: str | None = None) -> bool:
        """Whether a file is loaded at all, or a column of it, as far as load_col and unload_col say."""
        wanted = self.config["load_col"]
        if wanted is not None and ending not in wanted:
            return False
        if column is None:
            return True
        if column in ((self.config["unload_col"] or {}).get(ending) or ()):
            return False
        return wanted is None or wanted[ending] == "*" or column in wanted[ending]

    def load(self, ending: str, columns: Iterable[str]) -> None:
        """Have columns loaded, with those that tell whose they are."""
        config = self.config
        wanted = config["load_col"]
        if wanted is None or wanted.get(ending) == "*":
            return
        named = list(wanted.get(ending) or [])
        whose = [config[key] for key in IDS.get(ending, ())]
        new = dict.fromkeys(name for name in (*whose, *columns) if name and name not in named)
        config["load_col"] = {**wanted, ending: [*named, *new]}

    def describe(self, endings: Iterable[str] = ()) -> str:
        """The columns that there are, file by file."""
        shown = [ending for ending in (endings or self.of) if ending in self.of]
        return "; ".join(f".{ending} has {', '.join(self.of[ending])}" for ending in shown) or "there is no such file"


IDS = {
    INTER: ("USER_ID_FIELD", "ITEM_ID_FIELD"), USER: ("USER_ID_FIELD",), ITEM: ("ITEM_ID_FIELD",),
    KG: ("HEAD_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "TAIL_ENTITY_ID_FIELD"),
    LINK: ("ITEM_ID_FIELD", "ENTITY_ID_FIELD"),
}  # fmt: skip


def file_endings(config) -> list[str]:
    """Endings of the files that this model's data set can have; not all of them must be there."""
    special = special_dataset_class(config)
    has_graph = config["MODEL_TYPE"] == ModelType.KNOWLEDGE or (
        special is not None and issubclass(special, recbole_datasets.KnowledgeBasedDataset)
    )
    return [INTER, USER, ITEM, *([KG, LINK] if has_graph else []), *(config["additional_feat_suffix"] or [])]


def read_titles(config, path: Path) -> dict[str, str]:
    """The columns of an atomic file and their types as its title line has them; none if there is no such file."""
    return title_line(path, config["field_separator"], config["encoding"]) if path.is_file() else {}


def resolve_columns(config) -> list[str]:
    """Have every column loaded that a setting names; returns what is to be told.

    Raises UserError for a column that is in no file, with the nearest one, for one of a type that the setting cannot
    be applied to, and for settings that contradict each other or would have no effect without a word.
    """
    titles = Titles(config)
    notes = _effectless_settings(config, titles)
    _check_column_lists(config, titles)
    for spec in COLUMN_KEYS:
        value = config[spec.key]
        if not value or not spec.is_read(config):
            continue
        if spec.key == "LABEL_FIELD" and config["threshold"]:
            continue  # they are made of another column
        if isinstance(value, str) and spec.names is list:  # RecBole would take it letter by letter
            value = config[spec.key] = [value]
        for name in spec.names(value):
            _resolve(config, titles, spec, name)
    _load_ids(config, titles)
    _refuse_contradictions(config, titles)
    return notes


def _resolve(config, titles: Titles, spec: ColumnKey, name: Any) -> None:
    if not isinstance(name, str):
        raise UserError(f"{spec.key} must name columns, got {name!r} ({config.origins.get(spec.key)})")
    endings = [ending for ending in (spec.files or titles.of) if name in titles.of.get(ending, ())]
    if not endings:
        raise UserError(_no_such_column(config, titles, spec.key, name, spec.files))
    loaded = [ending for ending in endings if titles.is_loaded(ending, name)]
    ending = (loaded or endings)[0]
    kind = titles.of[ending][name]
    if kind not in spec.types:
        cure = "" if spec.key != "threshold" else ": only numbers are at least as large as another"
        raise UserError(
            f"{spec.key} ({config.origins.get(spec.key)}) cannot be applied to '{name}:{kind}' of "
            f"{titles.path(ending).name}, only to columns of type {' or '.join(spec.types)}{cure}"
        )
    if loaded:
        return
    if name in ((config["unload_col"] or {}).get(ending) or ()):
        raise UserError(f"{spec.key} needs the column '{name}', and unload_col has it left out: take it out of one")
    titles.load(ending, [name])
    getLogger().info(f"the column '{name}' of {titles.path(ending).name} is loaded too, for {spec.key} names it")


def _no_such_column(config, titles: Titles, key: str, name: str, endings: tuple[str, ...] = ()) -> str:
    columns = [column for ending in (endings or titles.of) for column in titles.of.get(ending, ())]
    hint = did_you_mean(name, columns)
    elsewhere = [ending for ending in titles.of if name in titles.of[ending]]
    suffix = config["LIST_SUFFIX"]
    if elsewhere:
        hint = f" It is a column of .{elsewhere[0]}, and {key} takes those of .{' or .'.join(endings)}."
    elif key == "LABEL_FIELD":
        hint = f" {config['model']} reads labels: name a column of 0 and 1, or have them made, as with"
        hint += ' --threshold="{rating: 4}".'
    elif name.endswith(suffix) and name.removesuffix(suffix) in columns and not config["benchmark_filename"]:
        hint = " Histories are made of the log, MAX_ITEM_LIST_LENGTH events long: leave it out."
    return (
        f"data set '{config['dataset']}': {key} ({config.origins.get(key)}) names the column '{name}', which does not "
        f"exist.{hint} {titles.describe(endings)}"
    )


def _check_column_lists(config, titles: Titles) -> None:
    """load_col, unload_col and unused_col: what RecBole ships may name columns that a data set has not."""
    suffix, length = config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"]
    derived = {length, config["LABEL_FIELD"], config["TOI_FIELD"], config["TOI_FIELD"] + suffix}
    for key in COLUMN_LISTS:
        for ending, names in (config[key] or {}).items():
            if not isinstance(names, (list, tuple)) and not (names == "*" and key == "load_col"):
                raise UserError(f"{key}: {ending} must be a list of columns, got {names!r} ({config.origins.get(key)})")
            if key not in config.chosen:
                continue
            if ending not in titles.of:
                if titles.path(ending).is_file():
                    hint = f" (additional_feat_suffix: [{ending}] would)"
                    raise UserError(f"{key} names {titles.path(ending).name}, which this run does not load{hint}")
                raise UserError(
                    f"{key} ({config.origins.get(key)}) names '{ending}', and the files of '{config['dataset']}' are "
                    f"{', '.join(titles.of)}"
                )
            for name in names if names != "*" else ():
                of_history = name.endswith(suffix) and name.removesuffix(suffix) in titles.of[ending]
                if name in titles.of[ending] or (key == "unused_col" and (name in derived or of_history)):
                    continue
                raise UserError(_no_such_column(config, titles, key, str(name), (ending,)))


def _load_ids(config, titles: Titles) -> None:
    """Features of users and items are nobody's without the column that says whose."""
    for ending in (USER, ITEM):
        if ending not in titles.of or not titles.is_loaded(ending):
            continue
        (key,) = IDS[ending]
        if config[key] not in titles.of[ending]:
            if config["load_col"] is None or config["load_col"][ending]:
                raise UserError(_no_such_column(config, titles, key, config[key], (ending,)))
        else:
            titles.load(ending, [])


def _effectless_settings(config, titles: Titles) -> list[str]:
    """Settings that this run would not apply: refused, or taken back and told."""
    if config["benchmark_filename"]:
        for key in FILTERS:
            if key in config.chosen and config[key] not in (None, "[0,inf)"):
                raise UserError(
                    f"{key} ({config.origins[key]}) is not applied to files that are split already: leave it out, and "
                    f"filter before the split"
                )
    threshold = config["threshold"]
    own_class = not config.is_recbole_model and config["MODEL_TYPE"] != ModelType.SEQUENTIAL  # it may read labels
    if not threshold or reads_labels(config) or own_class:
        return []
    if len(threshold) != 1:
        raise UserError(f"threshold must have one column, got {threshold!r}")
    for name in threshold:
        if name not in titles.of.get(INTER, ()):
            raise UserError(_no_such_column(config, titles, "threshold", str(name), (INTER,)))
    config["threshold"] = None
    ((name, least),) = threshold.items()
    return [
        f"threshold ({config.origins.get('threshold')}) has no effect: {config['model']} reads no labels here, and "
        f"every interaction counts. To keep those of at least {least} alone: "
        f"--val_interval=\"{{{name}: '[{least},inf)'}}\""
    ]


def _refuse_contradictions(config, titles: Titles) -> None:
    if config["normalize_field"] and config["normalize_all"]:
        if "normalize_all" in config.chosen:
            raise UserError("normalize_field and normalize_all cannot be set at the same time: leave one out")
        config["normalize_all"] = None
    for name in config["discretization"] or ():
        if name not in config["numerical_features"]:
            raise UserError(f"discretization: '{name}' must be among numerical_features {config['numerical_features']}")
    for name, limit in (config["seq_len"] or {}).items():
        if not (is_whole(limit) and limit > 0):
            raise UserError(f"seq_len: {name} must be a whole number of at least 1, got {limit!r}")
    threshold = config["threshold"] or {}
    if len(threshold) > 1 or not all(map(is_number, threshold.values())):
        raise UserError(f"threshold must be one column with a number, such as {{rating: 4}}, got {threshold!r}")
    for whose, column in (config["preload_weight"] or {}).items():
        endings = [ending for ending in titles.of if {whose, column} <= titles.of[ending].keys()]
        if not set(endings) & set(config["additional_feat_suffix"] or ()):  # in others RecBole fails at the padding
            raise UserError(
                f"preload_weight: '{whose}' and '{column}' must be columns of one file that is theirs alone, such as "
                f"{config['dataset']}.ent (additional_feat_suffix: [ent]). {titles.describe()}"
            )
    _check_value_filters(config, titles)
    ids = {config[key] for keys in IDS.values() for key in keys}
    seen: dict[str, str] = {}
    for ending in titles.of:
        if ending == LINK:
            continue
        for name in titles.of[ending]:
            if name in ids or not titles.is_loaded(ending, name):
                continue
            if name in seen:
                raise UserError(
                    f"'{name}' is a column of {titles.path(seen[name]).name} and of {titles.path(ending).name}, and a "
                    f'batch has one of a name: leave one out of load_col, or --unload_col="{{{ending}: [{name}]}}"'
                )
            seen[name] = ending


def _check_value_filters(config, titles: Titles) -> None:
    """A column of numbers has intervals, one of tokens a list; tokens are text."""
    intervals = dict(config["val_interval"] or {})
    for name, wanted in intervals.items():
        kind = next(titles.of[ending][name] for ending in titles.of if name in titles.of[ending])
        is_interval = isinstance(wanted, str) or (len(wanted) == 2 and all(map(is_number, wanted)))
        if kind == "float" and not is_interval:
            raise UserError(f"val_interval: '{name}:float' needs an interval such as '[5,inf)', got {wanted!r}")
        if kind == "token":
            if isinstance(wanted, str):
                raise UserError(
                    f"val_interval: '{name}:token' needs a list of the tokens to keep, got {wanted!r}: only a column "
                    f"'{name}:float' has intervals"
                )
            intervals[name] = [str(each) for each in wanted]
    if intervals:
        config["val_interval"] = intervals
