"""The table of what the value of every key may be, read from the comments beside the defaults (see `rules`).

RecBole's files say it in no form that could be read: properties/recbole.yaml and recbole_models.yaml say it for them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole_gen.config import places
from recbole_gen.config.registry import ModelInfo
from recbole_gen.config.rules import Rule, parse_rule
from recbole_gen.errors import UserError
from recbole_gen.options import read_yaml

_LINE = re.compile(r"( *)([\w-]+):(?: .*?)??(?:\s#\s*(.*))?")


@dataclass(frozen=True)
class KeyTable:
    """For each key the rules that its values must keep, all of them."""

    rules: Mapping[str, tuple[Rule, ...]]

    def __contains__(self, key: object) -> bool:
        return key in self.rules

    def converted(self, key: str, value: Any) -> Any:
        """A number for a key that is text, as text; every other value as it is."""
        for rule in self.rules.get(key, ()):
            value = rule.converted(value)
        return value

    def check(self, key: str, value: Any, origin: str | None, values: Mapping[str, Any] | None = None) -> None:
        """Raise UserError, with key, value, origin and what is allowed, unless a key of the table has a right value.

        ``values`` are those of all keys, by which conditions that name other keys are checked; without them they
        are not.
        """
        for rule in self.rules.get(key, ()):
            rule.check(key, value, origin, values)


def key_table(info: ModelInfo) -> KeyTable:
    """The rules of all keys that a run of a model can have.

    Those of a class of the user's own are in the comments of the YAML file beside it, where there are any that can be
    read, and its own defaults keep them.
    """
    tables = [_read_rules(places.PROPERTIES / "recbole.yaml"), _read_rules(places.PROPERTIES / "overall.yaml")]
    if info.is_recbole:
        of_models = _read_rules(places.PROPERTIES / "recbole_models.yaml")
        own = of_models[info.name].parts if info.name in of_models else {}
        # Some of these names are among RecBole's general keys too; what the model says of them is narrower.
        declared = {**of_models, **own}
        names = read_yaml(places.RECBOLE_PROPERTIES / f"model/{info.name}.yaml").keys() | own.keys()
        tables.append({key: declared[key] for key in declared if key in names})
    if info.settings is not None and info.settings.is_file():
        own = _read_rules(info.settings)
        tables.append({key: own[key] for key in own if not info.is_users_own or _keeps(own[key])})
    rules: dict[str, tuple[Rule, ...]] = {}
    for table in tables:
        for key, rule in table.items():
            rules[key] = (*rules.get(key, ()), rule)
    return KeyTable(rules)


def _keeps(rule: Rule) -> bool:
    """Whether what stands beside a rule keeps it. (RecBole's files call 0.001 an int here and there.)"""
    try:
        rule.check("", rule.example, None)
    except UserError:
        return False
    return True


def _read_rules(path: Path) -> dict[str, Rule]:
    state = path.stat()
    return _rules_of_file(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=64)
def _rules_of_file(path: Path, time: int, size: int) -> dict[str, Rule]:
    return _as_rules(_parse_lines(path.read_text(encoding="utf-8")), read_yaml(path))


def _parse_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Indent, key and comment of each line that has a key."""
    for line in text.splitlines():
        if match := _LINE.fullmatch(line.rstrip()):
            yield len(match[1]), match[2], match[3] or ""


def _as_rules(lines: Iterator[tuple[int, str, str]], values: Mapping[str, Any]) -> dict[str, Rule]:
    """The rules of the keys; lines that are indented are the parts of the key above them."""
    rules: dict[str, Rule] = {}
    top = ""
    for indent, key, comment in lines:
        if not indent:
            top = key
            rule = parse_rule(comment, values.get(key))
            rules[key] = rule or Rule((), example=values.get(key))
        elif top:
            parent = values.get(top)
            if part := parse_rule(comment, parent.get(key) if isinstance(parent, dict) else None):
                rules[top] = replace(rules[top], parts={**rules[top].parts, key: part})
    return {key: rule for key, rule in rules.items() if rule.kinds or rule.parts}
