"""The search space of a sweep: which keys of a run are searched, over which values, and what is drawn from them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import yaml
from tabulate import tabulate

from recbole_gen.errors import UserError
from recbole_gen.options import is_whole

if TYPE_CHECKING:
    import numpy as np

BOUNDS = {
    "uniform": ("low", "high"), "quniform": ("low", "high", "step"), "loguniform": ("low", "high"),
    "randint": ("low", "high"), "qrandint": ("low", "high", "step"), "lograndint": ("low", "high"),
}  # fmt: skip
KINDS = ("grid", "choice", *BOUNDS)
CONTINUOUS = ("uniform", "quniform", "loguniform")


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

    def is_active(self, point: dict[str, Any]) -> bool:
        """Whether a trial that has the values of ``point`` has this key too."""
        return all(key in point and is_among(point[key], values) for key, values in self.when.items())

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
        if not self._goes_as_json():
            return trial.suggest_categorical(self.name, list(self.values))
        options = {json.dumps(value): value for value in self.values}
        return options[trial.suggest_categorical(self.name, list(options))]

    def as_suggested(self, value: Any) -> Any:
        """How an Optuna trial holds a value of this key."""
        return json.dumps(value) if self._goes_as_json() else value

    def _goes_as_json(self) -> bool:
        # Optuna's categories are scalars.
        return self.kind not in BOUNDS and not all(
            isinstance(each, (str, int, float, type(None))) for each in self.values
        )

    def _is_whole(self) -> bool:
        # A run's whole-number keys take no 64.0, and its other keys take a 64.
        return self.kind not in ("uniform", "loguniform") and all(isinstance(value, int) for value in self.values)

    def can_take(self, value: Any) -> bool:
        """Whether ``value`` can come out; for kinds that are not continuous."""
        if self.kind not in BOUNDS:
            return is_among(value, self.values)
        low, high, *step = self.values
        if not is_whole(value):
            return False
        return low <= value <= high and value % step[0] == 0 if step else low <= value < high

    def extremes(self) -> list[Any]:
        """All values that can come out, or of a range the lowest and the highest."""
        if self.kind not in BOUNDS:
            return list(self.values)
        low, high = self.values[:2]
        if self.kind in ("randint", "lograndint"):
            return [low, high - 1]
        return [low, high] if self._is_whole() else [float(low), float(high)]

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
        import numpy as np  # here, so that a mistake in a file is answered before it is imported

        random, grid = np.random.default_rng(seed), self._grid_points()
        return [self._draw(point, random) for _ in range(num_samples) for point in grid]

    def suggest(self, trial: Any) -> dict[str, Any]:
        """The settings of one trial by an Optuna trial (or what has its suggest_float, _int and _categorical)."""
        point: dict[str, Any] = {}
        for dimension in self.parents_first():
            if dimension.is_active(point):
                point[dimension.name] = dimension.suggest(trial)
        return self._in_order(point)

    def num_trials(self, num_samples: int) -> int:
        """How many trials `sample` gives. Raises UserError for a number below 1."""
        _check_at_least("num_samples", num_samples, 1)
        return num_samples * len(self._grid_points())

    def without_grid(self) -> Space:
        """The same with what is a grid drawn, too, so that there are as many trials as samples."""
        drawn = {
            name: replace(each, kind="choice") if each.kind == "grid" else each
            for name, each in self.dimensions.items()
        }
        return Space(drawn)

    def as_yaml(self) -> str:
        """What `read_space` reads as this space."""
        content: dict[str, Any] = {}
        for name, each in self.dimensions.items():
            when = {"when": {key: list(values) for key, values in each.when.items()}} if each.when else {}
            is_plain = each.kind == "constant" and not when
            content[name] = each.values[0] if is_plain else {each.kind: list(each.values), **when}
        return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=1000)

    def describe(self) -> str:
        """A table of the keys for people."""
        rows = [[d.name, d.kind, d.describe(), _describe_conditions(d)] for d in self.dimensions.values()]
        conditional = any(dimension.when for dimension in self.dimensions.values())
        heads = ["key", "search", "values", "only with"][: 4 if conditional else 3]
        cells = [row[: len(heads)] for row in rows]
        table = tabulate(cells, headers=heads, disable_numparse=True, maxcolwidths=[None, None, 60, 40][: len(heads)])
        points = len(self._grid_points())
        return table if points == 1 else f"{table}\nthe grid has {points} points"

    def _grid_points(self) -> list[dict[str, Any]]:
        """What is not drawn: the product of the grids, the first key changing most slowly, with the constants."""
        points: list[dict[str, Any]] = [{}]
        for d in self.parents_first():
            if not d.is_drawn:
                points = [
                    {**point, d.name: value} if d.is_active(point) else point
                    for point in points
                    for value in (d.values if d.is_active(point) else (None,))
                ]
        return points

    def _draw(self, point: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        point = dict(point)
        for dimension in self.parents_first():
            if dimension.is_drawn and dimension.is_active(point):
                point[dimension.name] = dimension.sample(random)
        return self._in_order(point)

    def _in_order(self, point: dict[str, Any]) -> dict[str, Any]:
        return {name: point[name] for name in self.dimensions if name in point}

    def parents_first(self) -> list[Dimension]:
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


def _describe_conditions(dimension: Dimension) -> str:
    conditions = [f"{key}: {' or '.join(map(str, values))}" for key, values in dimension.when.items()]
    return ", ".join(conditions)


def _check_at_least(name: str, value: Any, least: int) -> None:
    if not (is_whole(value) and value >= least):
        raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}")


def is_among(value: Any, values: Iterable[Any]) -> bool:
    """As `in`, but True is no 1."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)
