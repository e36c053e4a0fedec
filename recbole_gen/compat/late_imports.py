"""What RecBole 1.2.1 imports at once, for all who import it, and few need."""

from __future__ import annotations

import builtins
import importlib
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any


def import_sklearn_when_it_is_called(module: ModuleType) -> Iterator[None]:
    """evaluator/metrics.py:29-30 imports three functions of sklearn.metrics, for AUC and the errors of ratings, and
    with them SciPy's statistics: a third of the time in which a process begins. The module gets functions that import
    scikit-learn when they are called. Deletable when RecBole has its own, or imports them there."""

    def import_module(name: str, globals=None, locals=None, fromlist=(), level: int = 0) -> Any:
        if name == "sklearn.metrics" and level == 0 and fromlist:
            return SimpleNamespace(**{each: _imported_when_called(name, each) for each in fromlist})
        return builtins.__import__(name, globals, locals, fromlist, level)

    # What the module's own `import` statements call, and those of no other module, whatever threads there are.
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_module}
    yield
    module.__dict__["__builtins__"] = vars(builtins)


def _imported_when_called(module: str, name: str) -> Callable[..., Any]:
    """A function that calls one of a module that is imported by then."""

    def function(*values, **named):
        return getattr(importlib.import_module(module), name)(*values, **named)

    return function
