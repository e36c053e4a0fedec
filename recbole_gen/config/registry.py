"""Which class a model's name means. Our names win; every other name is RecBole's."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recbole
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import get_model

from recbole_gen.errors import UserError

MODELS = {
    "DreamRec": "recbole_gen.model.dreamrec",
    "DiffRec": "recbole_gen.model.diffrec",
    "PASRec": "recbole_gen.model.pasrec",
    "PreferDiff": "recbole_gen.model.pasrec",
    "ACVAE": "recbole_gen.model.acvae",
    "DSPnet": "recbole_gen.model.dspnet",
}


@dataclass(frozen=True)
class ModelChoice:
    """A resolved model: the name that RecBole's tables may see, its class, and whether the class is RecBole's own."""

    name: str
    model_class: Any
    is_recbole: bool


def resolve(name: str | type) -> ModelChoice:
    """The model that `--model=name` means.

    `DreamRec` and the other names of MODELS are ours, also where RecBole has a model of that name;
    `recbole.DiffRec` is RecBole's; `my_package.my_module:MyModel` is a class of the user's own; any other name is
    RecBole's. Raises UserError, with the nearest names, if there is no such model.
    """
    if isinstance(name, type):
        return ModelChoice(name.__name__, name, name.__module__.startswith("recbole."))
    name = str(name)
    if ":" in name:
        return _user_class(name)
    if name in MODELS:
        return ModelChoice(name, getattr(importlib.import_module(MODELS[name]), name), False)
    plain = name.removeprefix("recbole.")
    if plain not in recbole_names():
        known = {known.lower(): known for known in [*MODELS, *recbole_names()]}
        near = [known[match] for match in difflib.get_close_matches(plain.lower(), known, n=3)]
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UserError(
            f"unknown model '{name}'.{hint} There are ours ({', '.join(MODELS)}), every model of RecBole, and a class "
            f"of your own as my_package.my_module:MyModel."
        )
    try:
        return ModelChoice(plain, get_model(plain), True)
    except ImportError as error:
        raise UserError(f"RecBole's model {plain} needs a package that is not installed: {error}") from error


def recbole_names() -> list[str]:
    """Names of RecBole's models, by its folder of defaults."""
    return sorted(file.stem for file in (Path(recbole.__file__).parent / "properties/model").glob("*.yaml"))


def _user_class(path: str) -> ModelChoice:
    module_name, _, class_name = path.partition(":")
    if not module_name or module_name.startswith("."):
        raise UserError(f"--model={path}: name the module from the top, as my_package.my_module:MyModel")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"--model={path}: there is no module '{error.name}' (is its folder on PYTHONPATH?)") from None
    model_class = getattr(module, class_name, None)
    if not (isinstance(model_class, type) and issubclass(model_class, AbstractRecommender)):
        raise UserError(f"--model={path}: module '{module_name}' has no class '{class_name}' that is a RecBole model")
    return ModelChoice(class_name, model_class, False)
