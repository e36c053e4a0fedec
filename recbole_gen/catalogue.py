"""What there is to choose from: the verbs `models` and `datasets`, with or without a name."""

from __future__ import annotations

import ast
import datetime
import importlib
import importlib.util
import inspect
import math
import re
import statistics
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from recbole_gen.config import registry
from recbole_gen.config.papers import paper_names, read_paper
from recbole_gen.config.places import (
    PROPERTIES,
    RECBOLE_PROPERTIES,
    ROOT,
    dataset_keys,
    dataset_names,
    event_files,
    find_dataset,
)
from recbole_gen.errors import UserError, quoted_option
from recbole_gen.files import read_json
from recbole_gen.options import asks_for_help, parse_name, read_yaml, verb_options
from recbole_gen.reading.rules import title_line

if TYPE_CHECKING:
    import pandas as pd

MODELS_USAGE = """\
usage: recbole-gen models [NAME]

  without a name       all models: ours with paper, needs, published settings and search space, and RecBole's by kind
  NAME                 one model: its paper, every hyper-parameter with its default, published settings, search space
"""
DATASETS_USAGE = """\
usage: recbole-gen datasets [NAME] [--data_path=FOLDER] [--all]

  without a name       the data sets that are here: size, columns, and which of our models can run on each; and the
                       names of those that `recbole-gen prepare` makes
  --all                also the names of the many that RecBole offers and that are not here
  NAME                 one data set: files, columns, users, items, times, published settings
  --data_path=FOLDER   where to look beside our dataset/ (default: dataset/ in the current folder, as in a run)
"""
WIDTH = 120
KINDS = {
    "sequential_recommender": "sequential", "general_recommender": "general",
    "context_aware_recommender": "context-aware", "knowledge_aware_recommender": "knowledge-based",
    "exlib_recommender": "decision trees",
}  # fmt: skip
CATEGORIES = ("token", "token_seq")
ATOMIC = (".inter", ".user", ".item", ".kg", ".link", ".net")
SEQ = "_seq"
CHUNK, MOST = 1 << 20, 256 << 20
"""Bytes that are read at once, and of one file at most, to count its lines."""
DATES = (10**8, 10**10)
"""Numbers that are taken for seconds since 1970: from 1973 to 2286."""


def models(arguments: Sequence[str]) -> None:
    """The `models` verb of the command line. Raises UserError for bad input."""
    _print_list_or_page(arguments, "models", MODELS_USAGE, {}, model_list, model_page)


def datasets(arguments: Sequence[str]) -> None:
    """The `datasets` verb of the command line. Raises UserError for bad input."""
    defaults = read_yaml(RECBOLE_PROPERTIES / "overall.yaml") | read_yaml(PROPERTIES / "overall.yaml")
    options = {"data_path": defaults["data_path"], "all": False}
    _print_list_or_page(arguments, "datasets", DATASETS_USAGE, options, dataset_list, dataset_page)


def _print_list_or_page(
    arguments: Sequence[str], verb: str, usage: str, options: dict[str, Any], list_all: Callable, describe_one: Callable
) -> None:
    """Print the usage, or what ``list_all(**options)`` or, with a name, ``describe_one(name, **options)`` returns."""
    if asks_for_help(arguments):
        print(usage, end="")
        return
    name, given = parse_name(arguments)
    options = verb_options(given, options, verb)
    if not isinstance(options.get("data_path", ""), str):
        raise UserError(f"--data_path must be text, got {options['data_path']!r}")
    of_list = {"with_offered": options.pop("all")} if "all" in options else {}
    print(list_all(**options, **of_list) if name is None else describe_one(name, **options))


def model_list() -> str:
    """All models for people: a table of ours, and RecBole's names by kind."""
    published = published_settings()
    rows = [
        [
            name,
            textwrap.fill(paper_of_model(name), 28),
            "\n".join(registry.NEEDS.get(name, ())),
            "\n".join(key for key, setting in published.items() if setting["model"] == name),
            "\n".join(
                str(file.relative_to(ROOT)) for file in (_model_file(name), _search_space_file(name)) if file.exists()
            ),
        ]
        for name in registry.MODELS
    ]
    heads = ["--model=", "paper", "needs", "--paper=", "files"]
    lines = [tabulate(rows, headers=heads, disable_numparse=True), "", "RecBole's"]
    by_kind: dict[str, list[str]] = {kind: [] for kind in KINDS.values()}
    for name in registry.recbole_model_names():
        missing = missing_packages(name)
        shown = f"recbole.{name}" if name in registry.MODELS else name
        by_kind[recbole_kind(name)].append(shown + (f" (needs {', '.join(missing)})" if missing else ""))
    for kind, names in by_kind.items():
        text = f"{kind} ({len(names)}): {', '.join(sorted(names, key=str.lower))}"
        lines.append(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))
    lines.append("your own class: --model=my_package.my_module:MyModel. One in detail: recbole-gen models NAME")
    return "\n".join(lines)


def model_page(name: str) -> str:
    """One model for people. Raises UserError, with the nearest names, if there is none of that name."""
    plain = name.removeprefix("recbole.")
    if name in registry.MODELS:
        return _page_of_ours(name)
    if ":" not in name and plain in registry.recbole_model_names():
        return _page_of_recboles(plain)
    choice = registry.resolve_model(name)  # a class of the user's own, or no model
    file = Path(inspect.getfile(choice.model_class))
    settings = file.with_name(f"{choice.name}.yaml")
    table = [_hyper_parameter_table(settings)] if settings.exists() else [f"its defaults are looked for in {settings}"]
    return "\n".join([f"{name}, a class of your own, in {file}", "", *table])


def _page_of_ours(name: str) -> str:
    settings = PROPERTIES / f"model/{name}.yaml"
    wanted = registry.NEEDS.get(name, ())
    lines = [*textwrap.wrap(f"{name}: {paper_of_model(name)}", WIDTH), f"in {_model_file(name).relative_to(ROOT)}"]
    lines.append(f"needs {' and '.join(wanted)}" if wanted else "needs items alone, in the order of their times")
    lines += [
        "",
        f"hyper-parameters, {settings.relative_to(ROOT)}",
        *_opening_remark(settings),
        _hyper_parameter_table(settings),
    ]
    settings_of_papers = [
        [f"--paper={key}", setting["dataset"], setting["protocol"]]
        for key, setting in published_settings(model=name).items()
    ]
    if settings_of_papers:
        lines += ["", tabulate(settings_of_papers, headers=["published setting", "data set", "protocol"])]
    search = _search_space_file(name)
    if search.exists():
        from recbole_gen.sweep.space_file import read_space

        lines += [
            "",
            f"search space, {search.relative_to(ROOT)}",
            *_opening_remark(search),
            read_space(search).describe(),
        ]
    return "\n".join(lines)


def _page_of_recboles(name: str) -> str:
    file = registry.recbole_file(name)
    lines = [f"{name}, of RecBole ({recbole_kind(name)}), in recbole/{file.relative_to(RECBOLE_PROPERTIES.parent)}"]
    if name in registry.MODELS:
        lines.append(f"--model=recbole.{name}; --model={name} is ours")
    missing = missing_packages(name)
    if missing:
        lines.append(f"needs what is not installed: {', '.join(missing)}")
    return "\n".join([*lines, "", _hyper_parameter_table(RECBOLE_PROPERTIES / f"model/{name}.yaml")])


def paper_of_model(name: str) -> str:
    """Authors, title, and venue of one of our models; "" if the docstring of its module does not say.

    It says so as `NAME: authors, "title", venue.`, over several lines or not.
    """
    text = " ".join((ast.get_docstring(ast.parse(_model_file(name).read_text(encoding="utf-8"))) or "").split())
    found = re.search(rf'\b{name}: ([^"]*"[^"]+"[^"]*?)\.(?:\s|$)', text)
    return found[1] if found else ""


def published_settings(model: str | None = None, dataset: str | None = None) -> dict[str, dict[str, Any]]:
    """Name -> content of the published settings of a model, or on a data set."""
    settings = {name: read_paper(name).settings for name in paper_names()}
    return {
        name: setting
        for name, setting in settings.items()
        if model in (None, setting["model"]) and dataset in (None, setting["dataset"])
    }


def recbole_kind(name: str) -> str:
    """The kind of a model of RecBole, a value of KINDS, by the folder of its file."""
    return KINDS[registry.recbole_file(name).parent.name]


def missing_packages(name: str) -> list[str]:
    """Packages that the file of a model of RecBole imports, there or in a function, and that are not installed."""
    text = registry.recbole_file(name).read_text(encoding="utf-8")
    lines = re.findall(r"^[ \t]*(?:import ([^#\n]+)|from ([A-Za-z_][\w.]*) import)", text, flags=re.MULTILINE)
    packages = [each.split()[0].partition(".")[0] for pair in lines for each in ",".join(filter(None, pair)).split(",")]
    missing = [package for package in dict.fromkeys(packages) if importlib.util.find_spec(package) is None]
    return [package for package in missing if package in _imported_packages(text)]


def _imported_packages(source: str) -> set[str]:
    """What Python sees of it: a line of a docstring may look like an import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of backslashes in RecBole's docstrings
        tree = ast.parse(source)
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.append(node.module)
    return {module.partition(".")[0] for module in modules}


def _model_file(name: str) -> Path:
    """The source of one of our models."""
    return Path(__file__).parent.joinpath(*registry.MODELS[name].split(".")[1:]).with_suffix(".py")


def _search_space_file(name: str) -> Path:
    return PROPERTIES / f"tune/{name}.yaml"


def _opening_remark(path: Path) -> list[str]:
    """The remark with which a YAML file begins, wrapped."""
    lines = path.read_text(encoding="utf-8").splitlines()
    last = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return textwrap.wrap(" ".join(line.removeprefix("#").strip() for line in lines[:last]), WIDTH)


def _hyper_parameter_table(path: Path) -> str:
    """Table of a YAML file's keys, their values as they are written, and what the remarks beside them say."""
    rows: list[list[str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        key = re.match(r"([\w-]+):\s*(.*?)\s*(?:#\s*(.*))?$", line)
        if key:
            rows.append([key[1], key[2], key[3] or ""])
        elif rows and (more := re.match(r"\s+#\s*(.*)", line)):
            rows[-1][2] += f" {more[1]}"
    longest = max((len(key) for key, _, _ in rows), default=0)
    cells = [
        [key, textwrap.fill(value, 24), textwrap.fill(text, WIDTH - 28 - longest, break_on_hyphens=False)]
        for key, value, text in rows
    ]
    return tabulate(cells, headers=["key", "default", "(type) what it is"], disable_numparse=True)


@dataclass(frozen=True)
class DatasetLog:
    """The interactions of a data set.

    files: NAME.inter, or the files of the parts where there is only those; ``columns`` and ``of_items``: column -> type
    of these and of NAME.item; ``keys``: the settings that the data set has of its own or by default.
    """

    name: str
    files: list[Path]
    columns: dict[str, str]
    of_items: dict[str, str]
    keys: dict[str, Any]

    @property
    def is_split(self) -> bool:
        """Whether there are files for each part only, with the histories in them."""
        return self.files[0].name != f"{self.name}.inter"

    def column(self, key: str) -> str | None:
        """The column that USER_ID_FIELD, ITEM_ID_FIELD or TIME_FIELD names, if it is there."""
        return self.keys[key] if self.keys[key] in self.columns else None

    def scenes(self) -> dict[str, str]:
        """Columns that DSPnet can take for scenes -> the options that say so."""
        own = [self.keys[key] for key in ("USER_ID_FIELD", "ITEM_ID_FIELD")]
        found = {name: kind for name, kind in self.of_items.items() if kind in CATEGORIES}
        found |= {name: kind for name, kind in self.columns.items() if kind == "token" and self._is_sequence(name)}
        rule = {name: " --scene_rule=first" if kind.endswith(SEQ) else "" for name, kind in found.items()}
        return {name: quoted_option("SCENE_FIELD", name) + rule[name] for name in found if name not in own}

    def runnable_models(self) -> list[str]:
        """Which of our models can run on it."""
        if not (self.column("USER_ID_FIELD") and self.column("ITEM_ID_FIELD")):
            return []
        time = self.column("TIME_FIELD")
        has = {"times": bool(time and self._is_sequence(time)), "scenes": bool(self.scenes())}
        return [name for name in registry.MODELS if all(has[what] for what in registry.NEEDS.get(name, ()))]

    def _is_sequence(self, column: str) -> bool:
        """Whether rows have the history of the column too, which files of parts must bring along."""
        return not self.is_split or f"{column}{self.keys['LIST_SUFFIX']}" in self.columns


def read_title_lines(name: str, folder: Path) -> DatasetLog:
    """What the title lines say of a data set. Raises UserError for one that is no title line."""
    keys = dataset_keys(name)
    files = event_files(name, folder)
    item_file = folder / f"{name}.item"
    columns = title_line(files[0], keys["field_separator"])
    return DatasetLog(
        name, files, columns, title_line(item_file, keys["field_separator"]) if item_file.exists() else {}, keys
    )


def count_rows(path: Path) -> tuple[int, bool]:
    """Lines of a file below its title that are not empty, and whether that is exact: of a very large one the first part
    is counted."""
    size, seen, lines, last = path.stat().st_size, 0, 0, b"\n"
    with open(path, "rb") as file:
        while seen < MOST and (chunk := file.read(CHUNK)):
            seen += len(chunk)
            text = (last + chunk).replace(b"\r", b"")  # a line that ends right behind another's end is empty
            empty = sum(len(run) - 1 for run in re.findall(rb"\n{2,}", text))
            lines, last = lines + chunk.count(b"\n") - empty, text[-1:]
    if seen < size:
        return round(lines * size / seen) - 1, False
    return max(lines + (last != b"\n") - 1, 0), True


def dataset_list(data_path: str, with_offered: bool = False) -> str:
    """The data sets that are here, and how many RecBole offers, or their names, for people.

    Raises UserError for no such folder.
    """
    if not Path(data_path).is_dir() and Path(data_path) != Path("dataset"):  # the default need not be there
        raise UserError(f"there is no folder {data_path}: --data_path names one with a folder for each data set")
    from recbole_gen.prepare.recipes import recipe_names

    here = {name: find_dataset(name, data_path) for name in dataset_names(data_path)}
    lines: list[str] = []
    for place in dict.fromkeys(folder.parent for folder in here.values()):
        rows = [_dataset_row(name, folder) for name, folder in here.items() if folder.parent == place]
        heads = ["--dataset=", "interactions", "columns", "may be scenes", "our models"]
        lines += [f"in {place}", tabulate(rows, headers=heads, disable_numparse=True), ""]
    recipes = recipe_names()
    offered = sorted(set(read_yaml(RECBOLE_PROPERTIES / "dataset/url.yaml")) - {*recipes} - here.keys())
    settings = {file.stem for file in (PROPERTIES / "dataset").glob("*.yaml")} - {*recipes, *offered} - here.keys()
    lines += _wrapped_names("made by recbole-gen prepare", [name for name in recipes if name not in here])
    others = f"{len(offered)} others that RecBole offers as atomic files, and are not here"
    lines += _wrapped_names(others, offered if with_offered else ["--all lists them"])
    if settings:
        lines += _wrapped_names("with settings here, to be made by yourself", sorted(settings))
    lines.append("one in detail, or where from: recbole-gen datasets NAME. * several values: --scene_rule=first")
    return "\n".join(lines)


def _dataset_row(name: str, folder: Path) -> list[str]:
    try:
        log = read_title_lines(name, folder)
        counts = [count_rows(file) for file in log.files]
    except (UserError, OSError) as error:
        return [name, "", textwrap.fill(str(error), 44), "", ""]
    size = "\n+ ".join(f"{'' if exact else 'about '}{number:,}" for number, exact in counts)
    scenes = [f"{field}*" if "scene_rule" in option else field for field, option in log.scenes().items()]
    columns = textwrap.fill(" ".join(f"{column}:{kind}" for column, kind in log.columns.items()), 44)
    runs = _all_but(log.runnable_models())
    return [name, size + (" rows" if log.is_split else ""), columns, "\n".join(scenes), textwrap.fill(runs, 18)]


def _all_but(names: list[str]) -> str:
    others = [name for name in registry.MODELS if name not in names]
    if not names:
        return "none: it lacks users or items"
    return f"all but {', '.join(others)}" if others else "all"


def _wrapped_names(title: str, names: list[str]) -> list[str]:
    text = f"{title}: {', '.join(names)}"
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def dataset_page(name: str, data_path: str) -> str:
    """One data set for people. Raises UserError, with where to get it, if it is not here, or cannot be read."""
    folder = find_dataset(name, data_path)
    log = read_title_lines(name, folder)
    rows = []
    for file in sorted(file for file in folder.glob(f"{name}.*") if file.suffix in ATOMIC):
        try:
            columns = " ".join(f"{column}:{kind}" for column, kind in title_line(file).items())
            number, exact = count_rows(file)
            size = f"{'' if exact else 'about '}{number:,}"
        except (UserError, OSError) as error:
            columns, size = str(error), ""
        rows.append([file.name, size, textwrap.fill(columns, 76, break_on_hyphens=False)])
    lines = [f"{name}, in {folder}", "", tabulate(rows, headers=["file", "rows", "columns"], disable_numparse=True), ""]
    lines += [f"{key}: {value}" for key, value in dataset_statistics(log).items()]
    lines.append(f"our models that can run on it: {_all_but(log.runnable_models())}")
    for option in log.scenes().values():
        lines.append(f"  DSPnet with {option}")
    if log.is_split:
        lines.append("its parts are files: --protocol=benchmark")
    note = read_json(folder / "prepare.json")
    for key in ("title", "page", "licence", "citation"):
        if key in note:
            lines += textwrap.wrap(f"{key}: {note[key]}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    settings = published_settings(dataset=name)
    if settings:
        lines += _wrapped_names("published settings", [f"--paper={key}" for key in settings])
    return "\n".join(lines)


def dataset_statistics(log: DatasetLog) -> dict[str, str]:
    """Users, items, times and tied last events of a data set, of all its parts.

    Raises UserError for a file that cannot be read. Items in the histories of files of parts count too.
    """
    user, item, time = (log.column(key) for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"))
    if not (user and item):
        wanted = ", ".join(str(log.keys[key]) for key in ("USER_ID_FIELD", "ITEM_ID_FIELD"))
        return {"users, items": f"not counted: the columns {wanted} are not both there"}
    from recbole_gen.prepare.tied_ends import tied_ends
    from recbole_gen.reading.whole_files import CATEGORIES, TEXT, TIMES

    history = f"{item}{log.keys['LIST_SUFFIX']}"
    kinds = {user: CATEGORIES, item: CATEGORIES, history: TEXT, time: TIMES}
    users: Counter[str] = Counter()
    items: set[str] = set()
    first, last, warnings, ties = math.inf, -math.inf, list[str](), None
    for file in log.files:
        titles = title_line(file, log.keys["field_separator"])
        data, told = read_events(file, {name: kinds[name] for name in titles if name in kinds}, log, (user, item))
        warnings += told
        users.update(data[user].value_counts().to_dict())
        items.update(data[item].unique())
        if history in data:
            separator = log.keys["seq_separator"]
            items.update(token for tokens in data[history].dropna() for token in tokens.split(separator) if token)
        if time in data and len(data):
            first, last = min(first, data[time].min()), max(last, data[time].max())
            if not log.is_split:  # in files of parts the last events are cut off already
                users_of, items_of = (data[name].cat.codes.to_numpy() for name in (user, item))
                ties = tied_ends(users_of, items_of, data[time].to_numpy())
    sizes = sorted(number for number in users.values() if number)
    if not sizes:
        return {"users, items": "none: there are no rows", **_left_out(warnings)}
    average, median = statistics.mean(sizes), statistics.median(sizes)
    out = {
        "users": f"{len(sizes):,}, with {average:.1f} rows on average (median {median:.0f})",
        "items": f"{len(items):,}",
    }
    if first <= last:
        out["times of targets" if log.is_split else "times"] = _describe_period(first, last)
    if ties:
        out["last events"] = ties.describe()
    return out | _left_out(warnings)


def _left_out(warnings: list[str]) -> dict[str, str]:
    return {"take note": "; ".join(warnings)} if warnings else {}


def read_events(
    file: Path, kinds: dict[str, str], log: DatasetLog, needed: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """The events of a file as training has them, and what to tell of the others. Raises UserError."""
    from recbole_gen.reading.parsing import TimeParser
    from recbole_gen.reading.whole_files import read_usable_rows

    times = TimeParser()
    data, told = read_usable_rows(file, kinds, needed, times, log.keys["field_separator"], log.keys.get("encoding"))
    return data, told + times.notes(log.keys["TIME_FIELD"])


def _describe_period(first: float, last: float) -> str:
    if DATES[0] <= first and last < DATES[1]:
        days = [datetime.datetime.fromtimestamp(int(moment), datetime.timezone.utc).date() for moment in (first, last)]
        return f"{days[0]} to {days[1]}"
    return f"{first:.15g} to {last:.15g}, which are no seconds since 1970"
