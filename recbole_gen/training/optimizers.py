"""Optimisers in torch's fused kernels, and several that the trainer, and its GradScaler, can use as one."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterable
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


def with_fused_step(optimizer: torch.optim.Optimizer, sparse: Iterable[torch.Tensor] = ()) -> torch.optim.Optimizer:
    """An optimiser with the settings of one that has not stepped yet, in torch's fused kernel if there is one for it.

    Every parameter must be a contiguous float32 or float64 tensor: on the CPU torch's kernels (2.13) do something else
    to strided ones, and to some in half precision, without a word. None may be among those with ``sparse`` gradients.

    Which kernel makes the steps is not part of the state: each goes on with what the other has saved.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sparse_ids = set(map(id, sparse))
    if all(id(each) not in sparse_ids and _has_fused_step(type(optimizer), each) for each in parameters):
        kind: Any = type(optimizer)
        groups = [{key: value for key, value in group.items() if key != "fused"} for group in optimizer.param_groups]
        optimizer = kind(groups, fused=True)
    optimizer.register_load_state_dict_pre_hook(_keep_kernel)
    return optimizer


def _keep_kernel(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state to be loaded, with the optimiser's own choice of kernel."""
    groups = [
        {**group, "fused": own["fused"]} if "fused" in own else group
        for group, own in zip(state["param_groups"], optimizer.param_groups, strict=False)  # torch compares the sizes
    ]
    return {**state, "param_groups": groups + state["param_groups"][len(groups) :]}


def _has_fused_step(kind: type, parameter: torch.Tensor) -> bool:
    return (
        parameter.dtype in (torch.float32, torch.float64)
        and parameter.layout == torch.strided
        and parameter.is_contiguous()
        and _has_kernel(kind, parameter.device, parameter.dtype)
    )


@functools.cache
def _has_kernel(kind: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has it, found by a step, of which no hook hears: they have come one by one, version by version."""
    if device.type not in ("cpu", "cuda"):
        return False
    parameter = torch.nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
    parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer = kind([parameter], fused=True)
        with torch.no_grad():
            inspect.unwrap(kind.step)(optimizer)
    except (TypeError, RuntimeError, ValueError):
        return False
    return True


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
        found = settings if isinstance(settings, dict) else keys
        wrong = [f"; {each} is missing" for each in keys if each not in found]
        wrong += [f"; {each} is unknown" for each in found if each not in keys]
        raise UserError(f"{key} must be a mapping such as {example}, got {settings!r}{''.join(wrong)}")
    require_learner(f"the learner of {key}", settings["learner"])
    if settings["learner"].lower() == "sparse_adam":
        raise UserError(f"{key}: sparse_adam is for sparse gradients, which these parameters do not have")
    for value in (settings["learning_rate"], settings["weight_decay"]):
        if not (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf):
            raise UserError(f"{key} needs numbers of at least 0 as in {example}, got {settings!r}")
    return settings
