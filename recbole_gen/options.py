"""Command lines and YAML files as plain values: arguments, a verb's own options, numbers that look like numbers."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_gen.errors import UserError, did_you_mean


class YamlLoader(yaml.SafeLoader):
    """YAML without constructors for Python objects, that reads 1e-3 and .5 as numbers (YAML 1.1 does not), and 1:30
    (which is 90 there) and 010 (8) as text."""


class _FileLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same by libyaml where it is there, for files: several times as fast."""


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_INT = re.compile(r"^(?:[-+]?(?:0|[1-9][\d_]*)|[-+]?0x[\da-fA-F]+|[-+]?0b[01]+)$")
_NAMED_FLOAT = re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
for _loader in (YamlLoader, _FileLoader):
    _loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _loader.add_implicit_resolver(_NUMBERS[0], _INT, list("-+0123456789"))
    _loader.add_implicit_resolver(_NUMBERS[1], _NAMED_FLOAT, list("-+."))
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*(?:[eE][-+]?\d+)?)$"),
        list("-+0123456789."),
    )


def parse_scalar(text: str) -> Any:
    """The value of `--key=text`: YAML, and Python's None; what is not valid YAML stays a string."""
    if text == "None":
        return None
    if not text.strip():
        return text  # a tab is a field_separator, not YAML's null
    try:
        value = yaml.load(text, Loader=YamlLoader)
        # `::` is a separator, and no mapping of ':' to nothing: a mapping has a brace, or a blank behind a colon.
        return text if isinstance(value, dict) and not re.search(r"^\s*\{|:\s", text) else value
    except (yaml.YAMLError, ValueError):  # ValueError: what looks like a date, and is none
        return text


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the arguments of a verb ask for its help: `help` in front, or `--help` or `-h` anywhere."""
    return [*arguments[:1]] == ["help"] or any(word == "-h" or word.partition("=")[0] == "--help" for word in arguments)


def parse_name(arguments: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """The arguments of a verb that may have a name in front: the name, None without one, and the others as a dict.

    Raises UserError as `parse_arguments` does.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    rest = parse_arguments(arguments[named:], "; a name stands right behind the verb, and there is one at most")
    return arguments[0] if named else None, rest


def parse_arguments(argv: Sequence[str], advice: str = "") -> dict[str, Any]:
    """`--key=value`, `--key value`, `--switch` (true), -m MODEL and -d DATASET, as a dict.

    Raises UserError for anything else, with the advice behind it, and for a key given twice with different values.
    """
    parsed: dict[str, Any] = {}
    tokens = [{"-m": "--model", "-d": "--dataset"}.get(token, token) for token in argv]
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("--"):
            raise UserError(f"'{token}' is not of the form --key=value{advice}")
        key, equals, text = token[2:].partition("=")
        if equals:
            value = parse_scalar(text)
        elif tokens and not tokens[0].startswith("--"):
            value = parse_scalar(tokens.pop(0))
        else:
            value = True
        if key in parsed and parsed[key] != value:
            raise UserError(f"--{key} is given twice, as {parsed[key]!r} and as {value!r}")
        parsed[key] = value
    return parsed


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of keys and values. Raises UserError if it is missing or something else."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_FileLoader)
    except FileNotFoundError:
        raise UserError(f"there is no configuration file {path}") from None
    except OSError as error:
        raise UserError(f"the configuration file {path} cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path} must hold `key: value` lines, found {type(content).__name__}")
    return content or {}


def split_options(
    given: dict[str, Any], defaults: dict[str, Any], verb: str, refused: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A verb's own options over their defaults, and the keys of a run.

    Raises UserError for keys in ``refused``, and for options without a value, or with one where true or false is meant.
    """
    help_says = f"`recbole-gen {verb} --help` says"
    for key in refused:
        if key in given:
            near = did_you_mean(key, defaults, ": did you mean --{}?", cutoff=0.9) or ";"
            raise UserError(f"--{key} is not for {verb}{near} {help_says} what is")
    chosen = {key: value for key, value in given.items() if key in defaults}
    for key, value in chosen.items():
        is_switch = isinstance(defaults[key], bool)
        if not is_switch and (value is True or (isinstance(value, str) and not value.strip())):
            raise UserError(f"--{key} needs a value: --{key}=...; {help_says} what it may be")
        if is_switch and not isinstance(value, bool):
            raise UserError(f"--{key} must be true or false, got {value!r}")
    return {**defaults, **chosen}, {key: value for key, value in given.items() if key not in defaults}


def verb_options(given: dict[str, Any], defaults: dict[str, Any], verb: str) -> dict[str, Any]:
    """The options of a verb that takes no keys of a run, over their defaults; raises UserError for any other key."""
    values, others = split_options(given, defaults, verb, ())
    for key in others:
        near = did_you_mean(key, [*defaults, "help"], ": did you mean --{}? All its") or "; its"
        known = ", ".join(f"--{name}" for name in [*defaults, "help"])
        raise UserError(f"{verb} has no option --{key}{near} options are {known}")
    return values


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def import_named(path: str, given: str, example: str) -> Any:
    """What `module:Name` names, None if the module has no such name; ``given`` and ``example`` are for messages.

    The module is imported. Raises UserError for one that is not named from the top, or is not there.
    """
    module_name, _, name = path.partition(":")
    if not module_name or module_name.startswith("."):
        raise UserError(f"{given}: name the module from the top, as my_package.my_module:{example}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{given}: there is no module '{error.name}' (is its folder on PYTHONPATH?)") from None
    return getattr(module, name, None)
