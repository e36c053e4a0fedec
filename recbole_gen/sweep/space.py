"""The search space of a sweep, read from a file: which keys of a run are searched, and over which values.

A file whose name ends in .yaml or .yml maps keys of a run to what is searched; the names are those of Ray Tune:

    learning_rate: {loguniform: [1.0e-4, 1.0e-2]}     # low, high: evenly in the logarithm
    dropout_prob: {uniform: [0.0, 0.5]}               # low, high
    gamma: {quniform: [0.0, 1.0, 0.1]}                # low, high, step; both ends count
    n_layers: {randint: [1, 4]}                       # 1, 2 or 3: the upper end is excluded
    inner_size: {qrandint: [64, 256, 64]}             # low, high, step; both ends count
    timesteps: {lograndint: [10, 1000]}               # as randint, evenly in the logarithm
    hidden_size: {choice: [32, 64]}                   # one of these, drawn
    guidance_scale: {grid: [0, 2, 4]}                 # each of these
    epochs: 20                                        # the same for every trial
    ddim_stride: {choice: [10, 50], when: {sampling: ddim}}

A key with `when` is drawn, and set, only where every key that it names has the value, or one of a list of values.

Any other file is a RecBole one (recbole/trainer/hyper_tuning.py), lines of `key kind range` with four kinds: `choice`
with a Python list, `uniform low,high`, `quniform low,high,step`, and `loguniform low,high`, where the bounds are
exponents of e. RecBole searches exhaustively unless told otherwise, so in a file of `choice` lines only, these are a
grid; beside other kinds they are drawn.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import yaml
from tabulate import tabulate

from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import is_number, is_whole, parse_scalar, read_yaml

BOUNDS = {
    "uniform": ("low", "high"), "quniform": ("low", "high", "step"), "loguniform": ("low", "high"),
    "randint": ("low", "high"), "qrandint": ("low", "high", "step"), "lograndint": ("low", "high"),
}  # fmt: skip
KINDS = ("grid", "choice", *BOUNDS)
RECBOLE_KINDS = ("choice", "uniform", "quniform", "loguniform")
CONTINUOUS = ("uniform", "quniform", "loguniform")
OF_THE_SWEEP = ("model", "dataset", "paper", "resume", "config_files", "nproc", "checkpoint_dir")
"""Keys that a space may not have, because they are those of all trials together."""
OF_THE_SCORES = (
    "protocol", "eval_args", "benchmark_filename", "positives", "mask_history", "mask_seen", "metrics", "topk",
    "valid_metric",
)  # fmt: skip
"""Keys that decide what is scored: with different values trials could not be compared."""
MOST_POINTS = 100_000


@dataclass(frozen=True)
class Dimension:
    """One key of a run: its ``kind`` (`constant`, or one of KINDS), and in ``values`` the constant, the options, or the
    bounds in the order of BOUNDS. ``when`` has for each key that it depends on the values with which it is set."""

    name: str
    kind: str
    values: tuple[Any, ...]
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def is_drawn(self) -> bool:
        """Whether a value is drawn for each trial; the others make the grid."""
        return self.kind not in ("constant", "grid")

    def is_set(self, point: dict[str, Any]) -> bool:
        """Whether a trial that has the values of ``point`` has this key too."""
        return all(key in point and _is_among(point[key], values) for key, values in self.when.items())

    def sample(self, random: np.random.Generator) -> Any:
        """One value, drawn as Ray Tune does."""
        from ray import tune

        if self.kind == "choice":
            return tune.choice(list(self.values)).sample(random_state=random)
        value = getattr(tune, self.kind)(*self.values).sample(random_state=random)
        return round(value) if self._is_whole() else value

    def suggest(self, trial: Any) -> Any:
        """One value from an Optuna trial, of the same range as `sample`."""
        if self.kind == "constant":
            return self.values[0]
        if self.kind in ("grid", "choice"):
            return self._suggest_option(trial)
        low, high, *step = self.values
        if self.kind == "quniform" and not self._is_whole():
            return trial.suggest_float(self.name, low, high, step=step[0])
        if self.kind in CONTINUOUS and self.kind != "quniform":
            return trial.suggest_float(self.name, low, high, log=self.kind == "loguniform")
        if step:
            return trial.suggest_int(self.name, low, high, step=step[0])
        return trial.suggest_int(self.name, low, high - 1, log=self.kind == "lograndint")

    def _suggest_option(self, trial: Any) -> Any:
        if all(isinstance(value, (str, int, float, type(None))) for value in self.values):
            return trial.suggest_categorical(self.name, list(self.values))
        options = {json.dumps(value): value for value in self.values}  # Optuna's categories are scalars
        return options[trial.suggest_categorical(self.name, list(options))]

    def _is_whole(self) -> bool:
        # A run's whole-number keys take no 64.0, and its other keys take a 64.
        return self.kind not in ("uniform", "loguniform") and all(isinstance(value, int) for value in self.values)

    def can_be(self, value: Any) -> bool:
        """Whether ``value`` can come out; for kinds that are not continuous."""
        if self.kind not in BOUNDS:
            return _is_among(value, self.values)
        low, high, *step = self.values
        if not is_whole(value):
            return False
        return low <= value <= high and value % step[0] == 0 if step else low <= value < high

    def describe(self) -> str:
        """Options or range, for people."""
        if self.kind not in BOUNDS:
            return ", ".join(value if isinstance(value, str) else json.dumps(value) for value in self.values)
        low, high, *step = self.values
        high = high - 1 if self.kind in ("randint", "lograndint") else high
        return f"{low} to {high}" + (f" in steps of {step[0]}" if step else "")


@dataclass(frozen=True)
class Space:
    """The keys that a sweep searches or fixes, in the order of the file."""

    dimensions: dict[str, Dimension]

    def sample(self, num_samples: int, seed: int) -> list[dict[str, Any]]:
        """The settings of all trials: each point of the grid ``num_samples`` times, what is drawn drawn anew each time.

        As in Ray Tune. The same ``seed`` gives the same trials, and the first of a larger ``num_samples`` are those of
        a smaller one. Raises UserError for a number below 1, or a seed below 0.
        """
        _check_at_least("num_samples", num_samples, 1)
        _check_at_least("seed", seed, 0)
        random, grid = np.random.default_rng(seed), self._grid()
        return [self._draw(point, random) for _ in range(num_samples) for point in grid]

    def suggest(self, trial: Any) -> dict[str, Any]:
        """The settings of one trial by an Optuna trial (or what has its suggest_float, _int and _categorical)."""
        point: dict[str, Any] = {}
        for dimension in self._parents_first():
            if dimension.is_set(point):
                point[dimension.name] = dimension.suggest(trial)
        return self._in_order(point)

    def number(self, num_samples: int) -> int:
        """How many trials `sample` gives. Raises UserError for a number below 1."""
        _check_at_least("num_samples", num_samples, 1)
        return num_samples * len(self._grid())

    def describe(self) -> str:
        """A table of the keys for people."""
        rows = [[d.name, d.kind, d.describe(), _conditions(d)] for d in self.dimensions.values()]
        conditional = any(dimension.when for dimension in self.dimensions.values())
        heads = ["key", "search", "values", "only with"][: 4 if conditional else 3]
        cells = [row[: len(heads)] for row in rows]
        table = tabulate(cells, headers=heads, disable_numparse=True, maxcolwidths=[None, None, 60, 40][: len(heads)])
        points = len(self._grid())
        return table if points == 1 else f"{table}\nthe grid has {points} points"

    def _grid(self) -> list[dict[str, Any]]:
        """What is not drawn: the product of the grids, the first key changing most slowly, with the constants."""
        points: list[dict[str, Any]] = [{}]
        for d in self._parents_first():
            if not d.is_drawn:
                points = [
                    {**point, d.name: value} if d.is_set(point) else point
                    for point in points
                    for value in (d.values if d.is_set(point) else (None,))
                ]
        return points

    def _draw(self, point: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        point = dict(point)
        for dimension in self._parents_first():
            if dimension.is_drawn and dimension.is_set(point):
                point[dimension.name] = dimension.sample(random)
        return self._in_order(point)

    def _in_order(self, point: dict[str, Any]) -> dict[str, Any]:
        return {name: point[name] for name in self.dimensions if name in point}

    def _parents_first(self) -> list[Dimension]:
        """In the order of the file, but each after those that it depends on. Raises UserError for a circle."""
        ordered: dict[str, Dimension] = {}

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                circle = " -> ".join([*path[path.index(name) :], name])
                raise UserError(f"the conditions go round in a circle: {circle}. Take one `when` out")
            if name in ordered:
                return
            for parent in self.dimensions[name].when:
                visit(parent, (*path, name))
            ordered[name] = self.dimensions[name]

        for name in self.dimensions:
            visit(name, ())
        return list(ordered.values())


def read(path: str | Path) -> Space:
    """The space in a YAML file or, where the name does not end in .yaml or .yml, a file of RecBole's kind.

    A `quniform` whose three numbers are whole gives whole numbers. Raises UserError, with the file and the line, for
    whatever is not as the text above says, and for a space in which nothing is searched.
    """
    path = Path(path)
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    entries = _yaml_entries(path) if is_yaml else _recbole_entries(path)
    dimensions = {dimension.name: dimension for dimension, _ in entries}
    if not dimensions:
        raise UserError(f"the search space {path} is empty: it needs lines such as `hidden_size: {{choice: [32, 64]}}`")
    for dimension, where in entries:
        _check_conditions(dimension, dimensions, where)
    space = Space(dimensions)
    try:
        space._parents_first()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if all(dimension.kind == "constant" for dimension in dimensions.values()):
        raise UserError(
            f"nothing is searched in {path}: every key has one value. Options are written {{choice: [a, b]}} (drawn) "
            f"or {{grid: [a, b]}} (each)"
        )
    points = math.prod(len(dimension.values) for dimension in dimensions.values() if dimension.kind == "grid")
    if points > MOST_POINTS:
        raise UserError(f"the grid of {path} has {points} points: `choice` in place of `grid` draws from them")
    return space


Entry = tuple[Dimension, str]
"""A dimension, and where it was read: `FILE, line 3: KEY`."""


def _yaml_entries(path: Path) -> list[Entry]:
    content, lines = read_yaml(path), _key_lines(path)
    entries = []
    for name, value in content.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: the key {name!r} is no name of a key of a run: keys are text")
        where = f"{path}, line {lines.get(name, 1)}: {name}"
        entries.append((_dimension(name, _plain(value), where), where))
    return entries


def _key_lines(path: Path) -> dict[str, int]:
    """The line of each key. Raises UserError if a mapping has a key twice, of which YAML would keep the last."""
    top = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    if not isinstance(top, yaml.MappingNode):
        return {}
    found: dict[str, int] = {}
    for mapping in (top, *(value for _, value in top.value if isinstance(value, yaml.MappingNode))):
        lines: dict[str, int] = {}
        for key, _ in mapping.value:
            line, name = key.start_mark.line + 1, str(key.value)
            if name in lines:
                raise UserError(f"{path}, line {line}: '{name}' is there twice, first in line {lines[name]}")
            lines[name] = line
        found = found or lines
    return found


def _dimension(name: str, value: Any, where: str) -> Dimension:
    """The dimension of one YAML entry."""
    if not isinstance(value, dict):
        return _checked(Dimension(name, "constant", (value,)), where)
    kinds = [key for key in value if key != "when"]
    if len(kinds) != 1:
        _refuse(where, f"needs one of {', '.join(KINDS)}, got {', '.join(kinds) or 'none'}")
    kind = kinds[0]
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        _refuse(
            where,
            f"there is no search '{kind}'.{hint} There are: {', '.join(KINDS)}. (A mapping that is the same for all "
            f"trials is written {{choice: [{{...}}]}}.)",
        )
    values = _options(value[kind], kind, where) if kind in ("grid", "choice") else _bounds(value[kind], kind, where)
    return _checked(Dimension(name, kind, values, _parsed_when(value, where)), where)


def _parsed_when(value: dict[str, Any], where: str) -> dict[str, tuple[Any, ...]]:
    if "when" not in value:
        return {}
    when = value["when"]
    if not (isinstance(when, dict) and when and [] not in when.values()):
        _refuse(where, f"`when` must name a key and its value, such as {{sampling: ddim}}, got {when!r}")
    return {key: tuple(wanted) if isinstance(wanted, list) else (wanted,) for key, wanted in when.items()}


def _recbole_entries(path: Path) -> list[Entry]:
    entries: list[Entry] = []
    first: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = line.split(None, 2)
        if len(parts) < 3:
            raise UserError(
                f"{path}, line {number}: '{line.strip()}' is not of RecBole's form `key kind range`, such as "
                f"`learning_rate loguniform -8,0` (a file of YAML must have a name that ends in .yaml)"
            )
        name, kind, text = parts
        where = f"{path}, line {number}: {name}"
        if name in first:
            raise UserError(f"{path}, line {number}: '{name}' is there twice, first in line {first[name]}")
        first[name] = number
        entries.append((_checked(Dimension(name, kind, _recbole_values(kind, text, where)), where), where))
    if all(dimension.kind == "choice" for dimension, _ in entries):
        return [(Dimension(dimension.name, "grid", dimension.values), where) for dimension, where in entries]
    return entries


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"there is no search space {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the search space {path} cannot be read: {error}") from None


def _recbole_values(kind: str, text: str, where: str) -> tuple[Any, ...]:
    if kind not in RECBOLE_KINDS:
        hint = did_you_mean(kind, RECBOLE_KINDS)
        _refuse(
            where,
            f"RecBole's files have no search '{kind}'.{hint} They have {', '.join(RECBOLE_KINDS)}; a file whose name "
            f"ends in .yaml may have {', '.join(KINDS)}",
        )
    if kind == "choice":
        # RecBole wants lists among the options quoted, and reads numbers and lists out of text.
        options = [parse_scalar(value) if isinstance(value, str) else _plain(value) for value in _listed(text, where)]
        return _options(options, kind, where)
    numbers = [parse_scalar(part.strip()) for part in text.partition("#")[0].split(",")]
    if kind != "loguniform":
        return _bounds(numbers, kind, where)
    exponents = _bounds(numbers, "uniform", f"{where}: exponents of e, drawn evenly")
    try:
        return _bounds([math.exp(exponent) for exponent in exponents], kind, where)
    except OverflowError:
        _refuse(where, f"loguniform takes exponents of e in RecBole's files, and e^{exponents[1]} is too large")


def _listed(text: str, where: str) -> list[Any]:
    """RecBole evaluates the text as Python; here it may hold nothing but values."""
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        values = None
    if not isinstance(values, (list, tuple)):
        _refuse(
            where, f"choice needs a list of plain values as Python writes it, such as [64, 'full'], got {text.strip()}"
        )
    return list(values)


def _checked(dimension: Dimension, where: str) -> Dimension:
    """Refuse keys that no trial may have of its own."""
    name, values = dimension.name, dimension.values
    if name in OF_THE_SWEEP:
        _refuse(where, "belongs to the whole sweep, not to a trial: take it out, and give it on the command line")
    if name in OF_THE_SCORES and dimension.kind != "constant" and len(values) > 1:
        _refuse(where, "decides what is scored, so that trials with different values cannot be compared: give it one")
    return dimension


def _options(options: Any, kind: str, where: str) -> tuple[Any, ...]:
    if not isinstance(options, (list, tuple)) or not options:
        _refuse(where, f"{kind} needs a list of at least one value, such as [32, 64], got {options!r}")
    for number, option in enumerate(options):
        if _is_among(option, options[:number]):
            _refuse(where, f"{kind} has the value {option!r} twice: leave one out")
    return tuple(options)


def _bounds(bounds: Any, kind: str, where: str) -> tuple[Any, ...]:
    """Bounds that Ray and Optuna both take."""
    names = ", ".join(BOUNDS[kind])
    if not (isinstance(bounds, (list, tuple)) and len(bounds) == len(BOUNDS[kind])):
        _refuse(where, f"{kind} needs [{names}], got {bounds!r}")
    whole = kind.endswith("randint")
    for bound in bounds:
        if not (is_whole(bound) if whole else _is_finite(bound)):
            _refuse(where, f"{kind} needs [{names}] as {'whole ' if whole else ''}numbers, got {bound!r}")
    low, high, *step = bounds
    if not low < high:
        _refuse(where, f"{kind} needs a low end below the high one, got {low} and {high}")
    if kind.startswith("log") and low <= 0:
        _refuse(where, f"{kind} needs bounds above 0, which have a logarithm, got {low}")
    if step:
        _check_step(low, high, step[0], kind, where)
    return tuple(bounds)


def _check_step(low: float, high: float, step: float, kind: str, where: str) -> None:
    if step <= 0:
        _refuse(where, f"{kind} needs a step above 0, got {step}")
    if kind == "qrandint" and step == 1:
        _refuse(where, f"steps of 1 are randint: [{low}, {high + 1}]")
    if not all(math.isclose(end / step, round(end / step)) for end in (low, high)):
        _refuse(where, f"{kind} needs a step that divides both ends, got {low}, {high} and {step}")


def _check_conditions(dimension: Dimension, dimensions: dict[str, Dimension], where: str) -> None:
    """Each key of `when` is in the space and can have the value, and a grid does not depend on what is drawn."""
    for key, wanted in dimension.when.items():
        parent = dimensions.get(key)
        if parent is None:
            near = difflib.get_close_matches(str(key), dimensions, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Add it, or take the condition on '{key}' out"
            _refuse(where, f"`when` names '{key}', which is not in the space.{hint}")
        if parent.kind in CONTINUOUS:
            _refuse(where, f"`when` needs a key of separate values, and '{key}' is drawn from {parent.kind}")
        if dimension.kind == "grid" and parent.is_drawn:
            _refuse(where, f"a grid cannot depend on '{key}', which is drawn: make that a grid or this a choice")
        for value in wanted:
            if not parent.can_be(value):
                _refuse(where, f"`when` asks for {key}: {value!r}, which '{key}' never is: it is {parent.describe()}")


def _conditions(dimension: Dimension) -> str:
    conditions = [f"{key}: {' or '.join(map(str, values))}" for key, values in dimension.when.items()]
    return ", ".join(conditions)


def _check_at_least(name: str, value: Any, least: int) -> None:
    if not (is_whole(value) and value >= least):
        raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _refuse(where: str, message: str) -> NoReturn:
    raise UserError(f"{where}: {message}")


def _plain(value: Any) -> Any:
    """Lists, mappings and scalars; what else YAML and Python know, such as dates, as text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, type(None))) else str(value)


def _is_among(value: Any, values: Iterable[Any]) -> bool:
    """As `in`, but True is no 1."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)
