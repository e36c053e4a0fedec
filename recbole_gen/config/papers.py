"""The published settings, properties/paper/NAME.yaml: what a run is set to, and what the paper says comes out of it.

The section `published` is no key of a run. It has the numbers as they are printed, and the settings of the baselines of
the same table that can be run beside it; `recbole-gen reproduce` reads both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from recbole_gen.config import places
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import is_number, read_yaml

SECTION = "published"
DEFAULT_PROTOCOL = "leave_one_out"
UNITS = {"percent": 2, "fraction": 0}
"""Unit of the printed numbers -> decimal places between it and a fraction."""
KEYS = {
    "paper": str, "table": str, "unit": str, "metrics": list, "rows": dict, "sd": dict, "baselines": dict, "about": str,
}  # fmt: skip
OPTIONAL = ("sd", "baselines", "about")
"""Keys of the section that may be left out."""
SAME_AS = "same_as"
"""Names another setting of the same table, whose section stands behind the keys that are given beside it."""


@dataclass(frozen=True)
class Published:
    """What a paper says of a setting and of its baselines. Numbers are fractions.

    Attributes:
        paper, table: where it says so: authors and title, and the table with its part.
        decimals: as many decimal places of the fractions are printed.
        metrics: names such as Hit@5, in the order of the table.
        rows: row of the table, which is the model's name or the paper's for a baseline -> metric -> number.
        sd: row -> metric -> standard deviation, where the paper has it.
        baselines: row, or a model that the table lacks -> what it runs with; `model` where the row names none.
        about: what to know of the baselines' settings.
        same_as: the published setting, where this one is another that is set beside the same numbers.
    """

    paper: str
    table: str
    decimals: int
    metrics: tuple[str, ...]
    rows: dict[str, dict[str, float]]
    sd: dict[str, dict[str, float]] = field(default_factory=dict)
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    about: str = ""
    same_as: str = ""


@dataclass(frozen=True)
class PaperSetting:
    """A published setting: the keys of its run, and what the paper says of it (None where the file has nothing)."""

    name: str
    settings: dict[str, Any]
    published: Published | None


def paper_names() -> list[str]:
    """Names of all published settings."""
    return sorted(file.stem for file in (places.PROPERTIES / "paper").glob("*.yaml"))


def read_paper(name: Any) -> PaperSetting:
    """The published setting of this name. Raises UserError if there is none, or its section `published` is wrong."""
    path = places.property_file("paper", name)
    settings = read_yaml(path)
    section = settings.pop(SECTION, None)
    return PaperSetting(str(name), settings, None if section is None else _read_section(section, settings, path))


def _read_section(section: Any, settings: Mapping[str, Any], path: Path) -> Published:
    where = f"{path}, {SECTION}"
    same_as = ""
    if isinstance(section, dict) and SAME_AS in section:
        same_as = str(section[SAME_AS])
        section = _numbers_of(section[SAME_AS], where) | {key: section[key] for key in section if key != SAME_AS}
    _require_shape(section, where)
    metrics = [str(metric) for metric in section["metrics"]]
    _require_measured(metrics, settings, where)
    shift = UNITS[section["unit"]]
    printed = [value for row in section["rows"].values() for value in row if value is not None]
    decimals = max((-int(Decimal(str(value)).as_tuple().exponent) for value in printed), default=0) + shift

    def as_fractions(table: Mapping[str, list[Any]]) -> dict[str, dict[str, float]]:
        return {
            str(row): {
                metric: float(Decimal(str(value)).scaleb(-shift))
                for metric, value in zip(metrics, values)
                if value is not None
            }
            for row, values in table.items()
        }

    baselines = {str(row): dict(values or {}) for row, values in section.get("baselines", {}).items()}
    rows, about = as_fractions(section["rows"]), " ".join(section.get("about", "").split())
    sd = as_fractions(section.get("sd", {}))
    return Published(section["paper"], section["table"], decimals, tuple(metrics), rows, sd, baselines, about, same_as)


def _numbers_of(name: Any, where: str) -> dict[str, Any]:
    """The section of the setting that has the numbers itself."""
    other = places.property_file("paper", name)
    section = read_yaml(other).get(SECTION)
    if not isinstance(section, dict) or SAME_AS in section:
        raise UserError(f"{where}: {SAME_AS}: {other} has no such section with numbers in it")
    return section


def _require_shape(section: Any, where: str) -> None:
    """Raise UserError unless the section has its keys, and each row a number, or ~, for each metric."""
    if not isinstance(section, dict):
        raise UserError(f"{where}: it must hold {', '.join(KEYS)}, or {SAME_AS}, a setting that does")
    for key in section:
        if key not in KEYS:
            known = [*KEYS, SAME_AS]
            raise UserError(f"{where}: unknown key '{key}'.{did_you_mean(key, known)} There are: {', '.join(known)}")
    for key, kind in KEYS.items():
        if key not in section and key in OPTIONAL:
            continue
        if not isinstance(section.get(key), kind) or not section[key]:
            raise UserError(f"{where}: {key} is missing, or no {kind.__name__}")
    if section["unit"] not in UNITS:
        raise UserError(f"{where}: unit must be one of {', '.join(UNITS)}, got {section['unit']!r}")
    width = len(section["metrics"])
    for name in ("rows", "sd"):
        for row, values in section.get(name, {}).items():
            is_row = isinstance(values, list) and all(value is None or is_number(value) for value in values)
            if not is_row or len(values) != width:
                raise UserError(f"{where}: {name}: {row} must have a number, or ~, for each of the {width} metrics")
            limit = 10 ** UNITS[section["unit"]]
            if any(value is not None and not 0 <= value <= limit for value in values):
                raise UserError(f"{where}: {name}: {row} has a number that is no {section['unit']}")
    for row, values in section.get("baselines", {}).items():
        if not isinstance(values, dict | None):
            raise UserError(f"{where}: baselines: {row} must have the keys that it runs with, or nothing")


def _require_measured(metrics: list[str], settings: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a metric, or a cut-off, that a run with these settings does not measure."""
    if twice := [metric for metric in metrics if metrics.count(metric) > 1]:
        raise UserError(f"{where}: metrics has {twice[0]} more than once")
    measured = measured_metrics(settings)
    for metric in metrics:
        if metric not in measured:
            hint = did_you_mean(metric, measured)
            raise UserError(f"{where}: the setting does not measure '{metric}'.{hint} It does: {', '.join(measured)}")


def measured_metrics(settings: Mapping[str, Any]) -> list[str]:
    """What a run with these settings measures, as Name@k."""
    protocol = places.property_file("protocol", settings.get("protocol", DEFAULT_PROTOCOL))
    merged = {**read_yaml(places.PROPERTIES / "overall.yaml"), **read_yaml(protocol), **settings}
    names, cut_offs = (value if isinstance(value, list) else [value] for value in (merged["metrics"], merged["topk"]))
    return [f"{name}@{k}" for name in names for k in cut_offs]
