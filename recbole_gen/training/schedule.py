"""Learning rates over a run: one factor for all optimisers, a function of the place in the run and nothing else."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from recbole_gen.training.optimizers import inner_optimizers


@dataclass(frozen=True)
class RateSchedule:
    """What each learning rate is multiplied by at a training step.

    Attributes:
        decay: linear or cosine, or None for a rate that stays.
        warmup_steps: steps in which the rate rises to its value.
    """

    decay: str | None
    warmup_steps: int

    def __bool__(self) -> bool:
        return self.decay is not None or self.warmup_steps > 0

    def factor(self, step: int, total: int) -> float:
        """That of a step, counted from 0, of ``total`` steps: from 1 / warmup_steps up to 1, then down towards 0, which
        it would have at step ``total``, the first one after the run."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay is None:
            return 1.0
        done = min((step - self.warmup_steps) / max(total - self.warmup_steps, 1), 1.0)
        return 1.0 - done if self.decay == "linear" else (1.0 + math.cos(math.pi * done)) / 2

    def set_rates(self, optimizer, step: int, total: int) -> None:
        """Give each optimiser the rate of this step; the one it had before the first step is multiplied."""
        if not self:
            return
        factor = self.factor(step, total)
        for inner in inner_optimizers(optimizer):
            for group in inner.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def warn_if_never_reached(self, total: int, logger: logging.Logger) -> None:
        """Say so if the warm-up takes the whole run."""
        if 0 < total <= self.warmup_steps:
            logger.warning(
                f"warmup_steps: {self.warmup_steps} is no less than the {total} steps of the whole run: all of them "
                f"are warm-up"
            )


def first_rate(optimizer) -> float:
    """The learning rate of the (first) optimiser's last step."""
    return float(inner_optimizers(optimizer)[0].param_groups[0]["lr"])


def scheduled_epochs(trainer) -> int:
    """Epochs of the stage that is trained; RecBole's S3Rec and RaCT have a number of their own for pre-training."""
    pretrains = str(getattr(trainer.model, "train_stage", "")).endswith("pretrain")
    return getattr(trainer, "pretrain_epochs", trainer.epochs) if pretrains else trainer.epochs
