"""Which class a model's name means. Our names win; every other name is RecBole's.

What can be said of a name without importing the model, or RecBole, is said so: `model_info`.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_gen.config import places
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import import_named

MODELS = {
    "DreamRec": "recbole_gen.model.dreamrec",
    "DiffRec": "recbole_gen.model.diffrec",
    "PASRec": "recbole_gen.model.pasrec",
    "PreferDiff": "recbole_gen.model.pasrec",
    "ACVAE": "recbole_gen.model.acvae",
    "DSPnet": "recbole_gen.model.dspnet",
    "TIGER": "recbole_gen.model.tiger",
    "Transitions": "recbole_gen.model.transitions",
}
NEEDS: dict[str, tuple[str, ...]] = {"PASRec": ("times",), "DSPnet": ("scenes",)}
"""What our models read beside items, with the defaults of their YAML files; their `needs_times` and `needs_scenes` say
the same (a test compares)."""
RECBOLE_KINDS = {
    "sequential_recommender": "SEQUENTIAL", "general_recommender": "GENERAL", "context_aware_recommender": "CONTEXT",
    "knowledge_aware_recommender": "KNOWLEDGE", "exlib_recommender": "DECISIONTREE",
}  # fmt: skip
"""Folder of RecBole's models -> name of their ModelType (Pop and the like, which are TRADITIONAL, count as GENERAL)."""


@dataclass(frozen=True)
class ModelInfo:
    """What decides which files of settings a model has, known without its class.

    Attributes:
        kind: the name of its ModelType, such as SEQUENTIAL.
        is_recbole: whether the class is RecBole's own.
        settings: our YAML file for it, or that beside a class of the user's own; None where there can be none.
    """

    name: str
    kind: str
    is_recbole: bool
    settings: Path | None

    @property
    def is_users_own(self) -> bool:
        """Whether it is neither RecBole's nor one of MODELS."""
        return not self.is_recbole and self.settings != places.PROPERTIES / f"model/{self.name}.yaml"

    @property
    def missing_settings(self) -> Path | None:
        """The YAML file that a class of the user's own could have beside it, and has not."""
        return self.settings if self.is_users_own and self.settings and not self.settings.is_file() else None


@dataclass(frozen=True)
class ModelChoice:
    """A resolved model: the name that RecBole's tables may see, its class, and whether the class is RecBole's own."""

    name: str
    model_class: Any
    is_recbole: bool

    @property
    def info(self) -> ModelInfo:
        """The same without the class."""
        kind, module = self.model_class.type.name, self.model_class.__module__
        if self.is_recbole or module == MODELS.get(self.name):
            return _shipped_info(self.name, kind, self.is_recbole)
        source = getattr(sys.modules[module], "__file__", None)  # a notebook has none
        return ModelInfo(self.name, kind, False, Path(source or self.name).with_name(f"{self.name}.yaml"))


def model_info(name: str) -> ModelInfo | None:
    """What is known of `--model=name` before anything is imported: None of a class of the user's own.

    Raises UserError, with the nearest names, if there is no such model.
    """
    if ":" in name:
        return None
    if name in MODELS:
        return _shipped_info(name, "SEQUENTIAL", False)
    plain = name.removeprefix("recbole.")
    if plain not in recbole_model_names():
        hint = did_you_mean(plain, [*MODELS, *recbole_model_names()], most=3)
        raise UserError(
            f"unknown model '{name}'.{hint} There are ours ({', '.join(MODELS)}), every model of RecBole, and a class "
            f"of your own as my_package.my_module:MyModel."
        )
    return _shipped_info(plain, RECBOLE_KINDS[recbole_file(plain).parent.name], True)


def _shipped_info(name: str, kind: str, is_recbole: bool) -> ModelInfo:
    is_other = is_recbole and name in MODELS  # recbole.NAME, and the file is for ours
    return ModelInfo(name, kind, is_recbole, None if is_other else places.PROPERTIES / f"model/{name}.yaml")


def resolve_model(name: str | type) -> ModelChoice:
    """The model that `--model=name` means, imported.

    `DreamRec` and the other names of MODELS are ours, also where RecBole has a model of that name;
    `recbole.DiffRec` is RecBole's; `my_package.my_module:MyModel` is a class of the user's own; any other name is
    RecBole's. Raises UserError, with the nearest names, if there is no such model.
    """
    if isinstance(name, type):
        return ModelChoice(name.__name__, name, name.__module__.startswith("recbole."))
    info = model_info(str(name))
    if info is None:
        return _user_class(str(name))
    if not info.is_recbole:
        return ModelChoice(info.name, getattr(importlib.import_module(MODELS[info.name]), info.name), False)
    from recbole.utils import get_model

    try:
        return ModelChoice(info.name, get_model(info.name), True)
    except ImportError as error:
        raise UserError(f"RecBole's model {info.name} needs a package that is not installed: {error}") from error


def recbole_model_names() -> list[str]:
    """Names of RecBole's models, by its folder of defaults."""
    return sorted(file.stem for file in (places.RECBOLE_PROPERTIES / "model").glob("*.yaml"))


def recbole_file(name: str) -> Path:
    """The source of a model of RecBole, which finds it by its name in lower case (`recbole.utils.get_model`)."""
    root = places.RECBOLE / "model"
    return next(file for folder in RECBOLE_KINDS if (file := root / folder / f"{name.lower()}.py").exists())


def class_path(model: type) -> str:
    """The name under which `resolve_model` finds a class again."""
    return f"{model.__module__}:{model.__qualname__}"


def require_named(path: Any, key: str) -> None:
    """Raise UserError for a class that only a checkpoint names: to find it is to run the code of its module.

    Classes of RecBole and of this package, and of modules that this process has imported already, need no naming.
    """
    module = str(path).partition(":")[0]
    if ":" not in str(path) or module in sys.modules or module.partition(".")[0] in ("recbole", "recbole_gen"):
        return
    given = f"[..., {path}]" if key == "metrics" else path
    raise UserError(
        f"the checkpoint names {path} as its {key}, a class of somebody's own: to read the checkpoint would run the "
        f'code of the module {module}. If you trust that, name it yourself: --{key}="{given}" (in Python: '
        f'{key}="{path}", or import {module} before)'
    )


def _user_class(path: str) -> ModelChoice:
    from recbole.model.abstract_recommender import AbstractRecommender

    model_class = import_named(path, f"--model={path}", "MyModel")
    module_name, _, class_name = path.partition(":")
    if not (isinstance(model_class, type) and issubclass(model_class, AbstractRecommender)):
        raise UserError(f"--model={path}: module '{module_name}' has no class '{class_name}' that is a RecBole model")
    return ModelChoice(class_name, model_class, False)
