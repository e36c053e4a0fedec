"""Reads a search space from a file: which keys of a run are searched, and over which values.

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

A key with `when` is drawn, and set, only where every key that it names has the value, or one of a list of values. Any
other file is a RecBole one, see `hyper_file`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import read_yaml
from recbole_gen.sweep.hyper_file import read_hyper_entries
from recbole_gen.sweep.space import KINDS, Dimension, Space
from recbole_gen.sweep.space_checks import (
    Entry,
    as_plain,
    checked_bounds,
    checked_dimension,
    checked_options,
    refuse,
    require_conditions,
)

MAX_GRID_POINTS = 100_000
"""A grid of more is a mistake."""


def read_space(path: str | Path) -> Space:
    """The space in a YAML file or, where the name does not end in .yaml or .yml, a file of RecBole's kind.

    A `quniform` whose three numbers are whole gives whole numbers. Raises UserError, with the file and the line, for
    whatever is not as the text above says, and for a space in which nothing is searched.
    """
    path = Path(path)
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    entries = _read_yaml_entries(path) if is_yaml else read_hyper_entries(path)
    dimensions = {dimension.name: dimension for dimension, _ in entries}
    if not dimensions:
        raise UserError(f"the search space {path} is empty: it needs lines such as `hidden_size: {{choice: [32, 64]}}`")
    for dimension, where in entries:
        require_conditions(dimension, dimensions, where)
    space = Space(dimensions)
    try:
        space.parents_first()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if all(dimension.kind == "constant" for dimension in dimensions.values()):
        raise UserError(
            f"nothing is searched in {path}: every key has one value. Options are written {{choice: [a, b]}} (drawn) "
            f"or {{grid: [a, b]}} (each)"
        )
    points = math.prod(len(dimension.values) for dimension in dimensions.values() if dimension.kind == "grid")
    if points > MAX_GRID_POINTS:
        raise UserError(f"the grid of {path} has {points} points: `choice` in place of `grid` draws from them")
    return space


def _read_yaml_entries(path: Path) -> list[Entry]:
    content, lines = read_yaml(path), _key_lines(path)
    entries = []
    for name, value in content.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: the key {name!r} is no name of a key of a run: keys are text")
        where = f"{path}, line {lines.get(name, 1)}: {name}"
        entries.append((_parse_dimension(name, as_plain(value), where), where))
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


def _parse_dimension(name: str, value: Any, where: str) -> Dimension:
    """The dimension of one YAML entry."""
    if not isinstance(value, dict):
        return checked_dimension(Dimension(name, "constant", (value,)), where)
    kinds = [key for key in value if key != "when"]
    if len(kinds) != 1:
        refuse(where, f"needs one of {', '.join(KINDS)}, got {', '.join(kinds) or 'none'}")
    kind = kinds[0]
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        refuse(
            where,
            f"there is no search '{kind}'.{hint} There are: {', '.join(KINDS)}. (A mapping that is the same for all "
            f"trials is written {{choice: [{{...}}]}}.)",
        )
    read_values = checked_options if kind in ("grid", "choice") else checked_bounds
    values = read_values(value[kind], kind, where)
    return checked_dimension(Dimension(name, kind, values, _parse_conditions(value, where)), where)


def _parse_conditions(value: dict[str, Any], where: str) -> dict[str, tuple[Any, ...]]:
    if "when" not in value:
        return {}
    when = value["when"]
    if not (isinstance(when, dict) and when and [] not in when.values()):
        refuse(where, f"`when` must name a key and its value, such as {{sampling: ddim}}, got {when!r}")
    return {key: tuple(wanted) if isinstance(wanted, list) else (wanted,) for key, wanted in when.items()}
