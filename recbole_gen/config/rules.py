"""What the value of a key may be, as the comment beside its default says it.

    hidden_size: 64       # (int) 1..16384 and a multiple of n_heads: Size d of the vectors.
    learning_rate: 0.001  # (float) > 0: Its learning rate.
    last_events: ~        # (int or ~) >= 2: Only so many latest interactions are used; ~ for all.
    rec_on: pred          # (str) pred|clean|both: What the cross-entropy reads.
    mask_ratio: beta      # (str or float) beta|> 0 and < 1: Share of the history that is masked.
    clip_grad_norm: ~     # (dict or ~) A mapping, whose parts are the lines below it:
      max_norm: 1.0       # (float, required) > 0: Largest norm of all gradients together.

In brackets stand the kinds of value, joined by `or`: `int` (a whole number), `float` (any finite number), `bool`, `str`
(text, which a number is turned into), `name` (text that is not empty), `word` (text whose case does not matter),
`path`, `ints` (such as "0,1"), `interval` (such as "[5,inf)", see `intervals`), `date`, `list`, `dict`, `~` (no value)
and `any`. A list or dict may say what is in it: `list of int`, `list of 2 float`, `list of 1+ int`, `dict of
interval/list`. A part that a mapping must have is `required`.

Behind the brackets, up to a colon, may stand what the value is among: alternatives divided by `|`, each of them a word,
a number, or conditions on a number joined by `and`: `>= 1`, `> 0`, `<= 1`, `< 5`, `0..1` (both ends count), `a multiple
of 2`; in place of a number the name of another key may stand. One word alone is written `= word`, or `= *`. In lists
and dicts they are for each of the values.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recbole_gen.config.intervals import parse_intervals
from recbole_gen.errors import UserError
from recbole_gen.options import is_number, is_whole

KINDS = {
    "int": "a whole number", "float": "a number", "bool": "True or False", "str": "text",
    "name": "text that is not empty", "word": "text", "path": "the name of a folder or file",
    "ints": "whole numbers such as '0,1'", "interval": "an interval such as '[5,inf)' or '(0,10]'",
    "date": "a date such as 2024-08-01", "list": "a list such as [name]",
    "dict": "a mapping such as {key: value} (a value with brackets or commas in it needs quotes)", "~": "~",
    "any": "any value",
}  # fmt: skip
"""Kind of value -> what a message calls it."""
NUMBERS, TEXTS = ("int", "float"), ("str", "name", "word", "path", "ints")
MULTIPLE = "a multiple of"
LARGEST = 2**63
"""Whole numbers from here on do not fit into a tensor."""
_NUMBER = r"[-+]?(?:\d[\d_]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+|inf)"
_CONDITION = re.compile(
    rf"(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})|(?P<sign>>=|>|<=|<|a multiple of) ?(?P<operand>{_NUMBER}|[A-Za-z_]\w*)"
)
_COMMENT = re.compile(r"\(([^()]*)\)\s*(.*)", re.DOTALL)
_SIGNS = {">=": "at least", ">": "above", "<=": "at most", "<": "below", MULTIPLE: MULTIPLE}


@dataclass(frozen=True)
class Condition:
    """One condition on a number: a sign, and a number or the name of another key."""

    sign: str
    operand: int | float | str

    def holds(self, number: int | float, values: Mapping[str, Any]) -> bool:
        """Whether it does; a key that is not in ``values``, or is no number there, asks for nothing."""
        other: Any = values.get(self.operand) if isinstance(self.operand, str) else self.operand
        if not is_number(other):
            return True
        if self.sign == MULTIPLE:
            return other == 0 or number % other == 0
        compare = {">=": number >= other, ">": number > other, "<=": number <= other, "<": number < other}
        return compare[self.sign]

    def describe(self, values: Mapping[str, Any]) -> str:
        """In words; a key with its value."""
        shown = values.get(self.operand) if isinstance(self.operand, str) else None
        name = _show(self.operand) + (f" ({_show(shown)})" if is_number(shown) else "")
        return f"{_SIGNS[self.sign]} {name}"


@dataclass(frozen=True)
class Kind:
    """One kind of value; for a list or dict the kinds of what is in it, and how many there may be."""

    name: str
    items: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None

    def has(self, value: Any) -> bool:
        """Whether the value is of this kind, whatever its content is."""
        if self.name in NUMBERS:
            return is_whole(value) if self.name == "int" else is_number(value)
        types: dict[str, Any] = {
            **dict.fromkeys((*TEXTS, "interval"), str), "list": (list, tuple), "dict": dict, "date": datetime.date,
            "~": type(None), "any": object,
        }  # fmt: skip
        if self.name == "bool":
            return isinstance(value, bool) or (is_whole(value) and value in (0, 1))
        return isinstance(value, types[self.name])

    def describe(self) -> str:
        """In words."""
        if not self.items:
            return KINDS[self.name]
        items = " or ".join(KINDS[item].removesuffix(" such as [name]") for item in self.items)
        if self.name == "dict":
            mapping, _, hint = KINDS["dict"].partition(" (")
            return f"{mapping}, each value {items} ({hint}"
        number = f"{self.least} " if self.least == self.most else "at least one " if self.least else ""
        return f"a list of {number}values, each {items}"


@dataclass(frozen=True)
class Rule:
    """What a value may be.

    Attributes:
        kinds: at least one.
        choices: the texts, and single numbers, that it may be.
        ranges: alternatives for numbers, each of conditions that hold together.
        is_required: whether a mapping must have this part.
        parts: of a mapping, the rules of its parts; empty where it may have any.
        example: what stands beside the comment.
    """

    kinds: tuple[Kind, ...]
    choices: tuple[str | int | float, ...] = ()
    ranges: tuple[tuple[Condition, ...], ...] = ()
    is_required: bool = False
    parts: dict[str, Rule] = field(default_factory=dict)
    example: Any = None

    def takes(self, *names: str) -> bool:
        """Whether one of these kinds is among its kinds."""
        return any(kind.name in names for kind in self.kinds)

    def converted(self, value: Any) -> Any:
        """A number that stands for text, as text, and 0 and 1 for a switch as that; every other value as it is."""
        if is_whole(value) and value in (0, 1) and self.takes("bool") and not self.takes(*NUMBERS, *TEXTS, "any"):
            return bool(value)
        is_text = self.takes(*TEXTS) and not self.takes(*NUMBERS, "bool", "any")
        if is_text and (is_whole(value) or (is_number(value) and math.isfinite(value))):
            return str(value) if not is_whole(value) or abs(value) < LARGEST else value
        return value

    def refusal(self, value: Any, values: Mapping[str, Any] | None = None) -> str:
        """What the value must be instead, in words; nothing if it may be what it is.

        ``values`` are those of the other keys, which conditions may name. Raises UserError for a mapping whose parts
        are wrong, see `check`.
        """
        values = values or {}
        own = [kind for kind in self.kinds if kind.has(value)]
        if not own:
            return self._describe_kinds()
        if any(kind.name == "any" for kind in own) or value is None:
            return ""
        if isinstance(value, (list, tuple, dict)):
            return self._refusal_of_items(own[0], value, values)
        return self._refusal_of_one([kind.name for kind in own], value, values)

    def check(self, key: str, value: Any, origin: str | None, values: Mapping[str, Any] | None = None) -> None:
        """Raise UserError, with the key, the value, its origin and what is allowed, unless the value is right."""
        if isinstance(value, dict) and self.parts and self.takes("dict"):
            for part, given in value.items():
                if part not in self.parts:
                    raise UserError(f"{key} has no '{part}' ({origin}): its parts are {', '.join(self.parts)}")
                self.parts[part].check(f"{key}: {part}", given, origin)
            for part, rule in self.parts.items():
                if rule.is_required and part not in value:
                    raise UserError(f"{key} must be {self._describe_mapping()}, got {value!r} ({origin})")
        elif wanted := self.refusal(value, values):
            raise UserError(f"{key} must be {wanted}, got {_shorten(value)} ({origin})")

    def _refusal_of_items(self, kind: Kind, value: Sequence | dict, values: Mapping[str, Any]) -> str:
        size, items = len(value), list(value.values()) if isinstance(value, dict) else list(value)
        if size < kind.least or (kind.most is not None and size > kind.most):
            return kind.describe()
        if not kind.items:
            return ""
        of_items = replace(self, kinds=tuple(Kind(item) for item in kind.items), parts={})
        for item in items:
            if wanted := of_items.refusal(of_items.converted(item), values):
                whole = "mapping, each value" if isinstance(value, dict) else "list, each member"
                return f"a {whole} {wanted}"
        return ""

    def _refusal_of_one(self, kinds: Sequence[str], value: Any, values: Mapping[str, Any]) -> str:
        if isinstance(value, str):
            if kinds == ["interval"]:
                return "" if _is_interval(value) else KINDS["interval"]
            if kinds == ["ints"]:
                return "" if re.fullmatch(r"(-?\d{1,6})?(, ?-?\d{1,6})*", value) else self._describe_kinds()
            if (kinds == ["name"] and not value) or (kinds == ["path"] and not value.strip()):
                return self._describe_kinds()
            fold = str.casefold if "word" in kinds else str
            texts = [choice for choice in self.choices if isinstance(choice, str)]
            if not texts or fold(value) in map(fold, texts):
                return ""
            return self._describe_content(values, value)
        if not is_number(value) or not set(kinds) & set(NUMBERS):
            return ""
        if isinstance(value, int) and not -LARGEST <= value < LARGEST:
            return f"{KINDS[kinds[0]]} of at most 18 digits"
        if value in self.choices or (math.isinf(value) and value > 0 and "inf" in self.choices):
            return ""
        if not math.isfinite(value) or any(isinstance(choice, (int, float)) for choice in self.choices):
            return self._describe_content(values, value)
        if not self.ranges or any(all(one.holds(value, values) for one in each) for each in self.ranges):
            return ""
        return self._describe_content(values, value)

    def _describe_kinds(self) -> str:
        if self.takes("dict") and self.parts:
            return self._describe_mapping()
        if self.choices and all(kind.name in (*TEXTS, "~") for kind in self.kinds):
            return self._describe_content({})
        return " or ".join(dict.fromkeys(kind.describe() for kind in self.kinds))

    def _describe_mapping(self) -> str:
        examples = {part: rule.example for part, rule in self.parts.items() if rule.example is not None}
        needed = {part: value for part, value in examples.items() if self.parts[part].is_required}
        shown = ", ".join(f"{part}: {value}" for part, value in (needed or examples or {"key": "value"}).items())
        return f"a mapping such as {{{shown}}}"

    def _broken_multiples(self, value: Any, values: Mapping[str, Any]) -> list[str]:
        """Where a number is within the one range that there is, what else it must be."""
        if not is_number(value) or len(self.ranges) != 1 or self.choices or not -LARGEST <= value < LARGEST:
            return []
        broken = [one for one in self.ranges[0] if not one.holds(value, values)]
        return [one.describe(values) for one in broken] if all(each.sign == MULTIPLE for each in broken) else []

    def _describe_content(self, values: Mapping[str, Any], value: Any = None) -> str:
        """Choices and ranges."""
        empty = ["~"] * self.takes("~")
        number = KINDS["int" if self.takes("int") and not self.takes("float") else "float"]
        ranges = [_describe_range(each, number, values) for each in self.ranges]
        if broken := self._broken_multiples(value, values):
            return " and ".join(broken)
        if not self.choices:
            return " or ".join([*ranges, *empty]) or "a finite number"
        switches = ["True", "False"] * self.takes("bool")
        listed = ", ".join([*map(_show, self.choices), *switches, *empty])
        one = len(self.choices) + len(switches) + len(empty) == 1
        lists = ["a list"] * self.takes("list")
        return " or ".join([*lists, listed if one else f"one of {listed}", *ranges])


def parse_rule(comment: str, example: Any = None) -> Rule | None:
    """The rule in a comment, without its `#`; None where the comment says none."""
    match = _COMMENT.match(comment.strip())
    if not match:
        return None
    inside, _, flag = match[1].partition(", ")
    kinds = [_parse_kind(text.strip()) for text in inside.split(" or ")]
    if None in kinds or flag not in ("", "required"):
        return None
    rule = Rule(tuple(kind for kind in kinds if kind), is_required=bool(flag), example=example)
    head, colon, _ = match[2].partition(":")
    head = " ".join(head.split()) if colon or len(head) < 60 else ""
    return _with_range(rule, head) or rule


def _parse_kind(text: str) -> Kind | None:
    name, _, items = text.partition(" of ")
    name = "~" if name == "None" else name
    if name not in KINDS:
        return None
    count, _, rest = items.partition(" ")
    least, most = 0, None
    if re.fullmatch(r"\d+\+?", count):
        least, most, items = int(count.rstrip("+")), None if count.endswith("+") else int(count), rest
    found = tuple(items.split("/")) if items else ()
    return Kind(name, found, least, most) if all(item in KINDS for item in found) else None


def _with_range(rule: Rule, text: str) -> Rule | None:
    """The rule with the range that ``text`` is; None if it is none, but the beginning of what is said of the key."""
    if one := re.fullmatch(r"= ([A-Za-z_][\w.-]*|\*)", text):
        return replace(rule, choices=(one[1],))
    choices: list[str | int | float] = []
    ranges: list[tuple[Condition, ...]] = []
    alternatives = [part.strip() for part in text.split("|")]
    first = "A-Za-z_" if rule.takes(*NUMBERS) else r"\w"
    for part in alternatives:
        if re.fullmatch(rf"[{first}][\w.-]*|''", part) and len(alternatives) > 1:
            choices.append(part.strip("'"))
        elif re.fullmatch(_NUMBER, part) and len(alternatives) > 1:
            choices.append(_parse_number(part))
        elif conditions := _parse_conditions(part):
            ranges.append(conditions)
        else:
            return None
    return replace(rule, choices=tuple(choices), ranges=tuple(ranges))


def _parse_conditions(text: str) -> tuple[Condition, ...]:
    found: list[Condition] = []
    for part in text.split(" and "):
        match = _CONDITION.fullmatch(part.strip())
        if not match:
            return ()
        if match["low"]:
            found += [Condition(">=", _parse_number(match["low"])), Condition("<=", _parse_number(match["high"]))]
        else:
            operand = match["operand"]
            is_key = not re.fullmatch(_NUMBER, operand)
            found.append(Condition(match["sign"], operand if is_key else _parse_number(operand)))
    return tuple(found)


def _parse_number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[-+]?[\d_]+", text) else float(text)


def _describe_range(conditions: Sequence[Condition], number: str, values: Mapping[str, Any]) -> str:
    """`a whole number from 1 to 5`, `from 0 to 1`, `a positive number`, ..."""
    whole = number == KINDS["int"]
    signs = [one.sign for one in conditions]
    words: list[str] = []
    rest = list(conditions)
    if signs[:2] == [">=", "<="]:
        words, rest = [f"from {_show(conditions[0].operand)} to {_show(conditions[1].operand)}"], rest[2:]
    elif len(rest) == 1 and rest[0].operand == 0 and not whole and rest[0].sign in (">", ">="):
        return "a positive number" if rest[0].sign == ">" else "0 or a positive number"
    words += [one.describe(values) for one in rest]
    said = " and ".join(words)
    if whole:
        return f"{number} {said}" if said.startswith("from") else f"{number} of {said}" if "at " in said[:3] else said
    return said


def _show(value: Any) -> str:
    return "~" if value is None else "''" if value == "" else str(value)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _is_interval(text: str) -> bool:
    try:
        return bool(parse_intervals(text))
    except ValueError:
        return False
