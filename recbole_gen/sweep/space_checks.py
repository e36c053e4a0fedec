"""What a line of a search space may say, whichever file it is in; what may not be there raises UserError."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NoReturn

from recbole_gen.config.key_table import KeyTable
from recbole_gen.config.keys import PROTOCOL_KEYS
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import is_number, is_whole
from recbole_gen.sweep.space import BOUNDS, CONTINUOUS, Dimension, is_among

SWEEP_KEYS = ("model", "dataset", "paper", "resume", "config_files", "nproc", "checkpoint_dir")
"""Keys that a space may not have, because they are those of all trials together."""
EVALUATION_KEYS = (
    "protocol", *PROTOCOL_KEYS, "mask_history", "mask_seen", "metrics", "topk", "valid_metric", "tie_order", "tie_seed",
    "cold_items",
)  # fmt: skip
"""Keys that decide what is scored: with different values trials could not be compared."""
Entry = tuple[Dimension, str]
"""A dimension, and where it was read: `FILE, line 3: KEY`."""


def checked_dimension(dimension: Dimension, where: str) -> Dimension:
    """The dimension, unless its key is one that no trial may have of its own."""
    name, values = dimension.name, dimension.values
    if name in SWEEP_KEYS:
        refuse(where, "belongs to the whole sweep, not to a trial: take it out, and give it on the command line")
    if name in EVALUATION_KEYS and dimension.kind != "constant" and len(values) > 1:
        refuse(where, "decides what is scored, so that trials with different values cannot be compared: give it one")
    return dimension


def checked_options(options: Any, kind: str, where: str) -> tuple[Any, ...]:
    """Values of a `grid` or `choice`, at least one and each once."""
    if not isinstance(options, (list, tuple)) or not options:
        refuse(where, f"{kind} needs a list of at least one value, such as [32, 64], got {options!r}")
    for number, option in enumerate(options):
        if is_among(option, options[:number]):
            refuse(where, f"{kind} has the value {option!r} twice: leave one out")
    return tuple(options)


def checked_bounds(bounds: Any, kind: str, where: str) -> tuple[Any, ...]:
    """Bounds of a kind in BOUNDS that Ray and Optuna both take."""
    names = ", ".join(BOUNDS[kind])
    if not (isinstance(bounds, (list, tuple)) and len(bounds) == len(BOUNDS[kind])):
        refuse(where, f"{kind} needs [{names}], got {bounds!r}")
    whole = kind.endswith("randint")
    for bound in bounds:
        if not (is_whole(bound) if whole else _is_finite(bound)):
            refuse(where, f"{kind} needs [{names}] as {'whole ' if whole else ''}numbers, got {bound!r}")
    low, high, *step = bounds
    if not low < high:
        refuse(where, f"{kind} needs a low end below the high one, got {low} and {high}")
    if kind.startswith("log") and low <= 0:
        refuse(where, f"{kind} needs bounds above 0, which have a logarithm, got {low}")
    if step:
        _require_step(low, high, step[0], kind, where)
    return tuple(bounds)


def _require_step(low: float, high: float, step: float, kind: str, where: str) -> None:
    if step <= 0:
        refuse(where, f"{kind} needs a step above 0, got {step}")
    if kind == "qrandint" and step == 1:
        refuse(where, f"steps of 1 are randint: [{low}, {high + 1}]")
    if not all(math.isclose(end / step, round(end / step)) for end in (low, high)):
        refuse(where, f"{kind} needs a step that divides both ends, got {low}, {high} and {step}")


def require_conditions(dimension: Dimension, dimensions: dict[str, Dimension], where: str) -> None:
    """Each key of `when` is in the space and can have the value, and a grid does not depend on what is drawn."""
    for key, wanted in dimension.when.items():
        parent = dimensions.get(key)
        if parent is None:
            hint = (
                did_you_mean(key, dimensions, " Did you mean '{}'?") or f" Add it, or take the condition on '{key}' out"
            )
            refuse(where, f"`when` names '{key}', which is not in the space.{hint}")
        if parent.kind in CONTINUOUS:
            refuse(where, f"`when` needs a key of separate values, and '{key}' is drawn from {parent.kind}")
        if dimension.kind == "grid" and parent.is_drawn:
            refuse(where, f"a grid cannot depend on '{key}', which is drawn: make that a grid or this a choice")
        for value in wanted:
            if not parent.can_take(value):
                refuse(where, f"`when` asks for {key}: {value!r}, which '{key}' never is: it is {parent.describe()}")


def require_allowed_values(dimensions: Iterable[Dimension], table: KeyTable, path: str) -> None:
    """Raise UserError, with the key and the value, for what a space can draw and no run may have.

    Of a range these are its ends: what the table says of a number it says of all between two. Conditions that name
    other keys are left to the trials, in which the other keys have values.
    """
    for dimension in dimensions:
        for value in dimension.extremes():
            table.check(dimension.name, table.converted(dimension.name, value), path)


def refuse(where: str, message: str) -> NoReturn:
    """Raise UserError with the place in the file."""
    raise UserError(f"{where}: {message}")


def as_plain(value: Any) -> Any:
    """Lists, mappings and scalars; what else YAML and Python know, such as dates, as text."""
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, type(None))) else str(value)


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)
