"""Several optimisers that the trainer, and torch's GradScaler, can use as one: for models with adversaries."""

from __future__ import annotations

import math
from typing import Any

import torch

from recbole_gen.errors import UserError

LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")


class CompositeOptimizer:
    """Named optimisers, stepped in order after one backward pass.

    The losses of an adversarial model stop gradients where one player's loss is not the other's; each parameter then
    has the gradient of its own objective, and a step of all optimisers equals the sequence of separate passes.

    Args:
        optimizers: name -> optimiser; a parameter may be in more than one, and is stepped by each.

    Attributes:
        active: names of those that take the next step; None for all.
    """

    def __init__(self, optimizers: dict[str, torch.optim.Optimizer]):
        self.optimizers = optimizers
        self.active: set[str] | None = None

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Each parameter once, as GradScaler needs it: a second mention would be unscaled twice."""
        return [{"params": own} for own in self.disjoint_parameters()]

    def disjoint_parameters(self) -> list[list[torch.Tensor]]:
        """The parameters of each optimiser that no earlier one has: what is clipped together."""
        seen: set[int] = set()
        owned = []
        for optimizer in self.optimizers.values():
            every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            owned.append([parameter for parameter in every if id(parameter) not in seen])
            seen.update(map(id, every))
        return owned

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of every parameter, also of those whose optimiser rests."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        """One step of each active optimiser."""
        for name, optimizer in self.optimizers.items():
            if self.active is None or name in self.active:
                optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """name -> the optimiser's own state, and what kind of optimiser it is."""
        return {
            name: {"learner": type(optimizer).__name__, **optimizer.state_dict()}
            for name, optimizer in self.optimizers.items()
        }

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Raises UserError, and loads nothing, unless names, kinds and numbers of parameters are those of this one."""
        wanted = {name: _learner_and_size(state) for name, state in self.state_dict().items()}
        found = {name: _learner_and_size(state) for name, state in states.items() if isinstance(state, dict)}
        if found != wanted:
            raise UserError(
                f"the checkpoint holds the optimisers {_listed(found)}, and the model has {_listed(wanted)}: go on "
                f"with the settings it was trained with"
            )
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict({key: value for key, value in states[name].items() if key != "learner"})


def _learner_and_size(state: dict[str, Any]) -> str:
    sizes = [len(group["params"]) for group in state.get("param_groups", [])]
    return f"{state.get('learner')} of {sum(sizes)} tensors"


def _listed(kinds: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none"


def inner_optimizers(optimizer) -> list[torch.optim.Optimizer]:
    """The optimisers that one is made of: itself, or the members of a composite."""
    return list(optimizer.optimizers.values()) if isinstance(optimizer, CompositeOptimizer) else [optimizer]


def require_learner(key: str, learner: Any) -> None:
    """Raise UserError unless it is one of LEARNERS; ``key`` is what the message calls it."""
    if str(learner).lower() not in LEARNERS:
        raise UserError(f"{key} must be one of {', '.join(LEARNERS)}, got '{learner}'")


def checked_settings(name: str, settings: Any) -> dict[str, Any]:
    """The settings of one of a model's optimisers, checked. Raises UserError."""
    keys = ("learner", "learning_rate", "weight_decay")
    key, example = f"{name}_optimizer", "{learner: sgd, learning_rate: 0.001, weight_decay: 0.0}"
    if not isinstance(settings, dict) or set(settings) != set(keys):
        raise UserError(f"{key} must be a mapping such as {example}, got {settings!r}")
    require_learner(f"the learner of {key}", settings["learner"])
    if settings["learner"].lower() == "sparse_adam":
        raise UserError(f"{key}: sparse_adam is for sparse gradients, which these parameters do not have")
    for value in (settings["learning_rate"], settings["weight_decay"]):
        if not (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf):
            raise UserError(f"{key} needs numbers of at least 0 as in {example}, got {settings!r}")
    return settings
