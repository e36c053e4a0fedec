"""What is known, and what usually is the cause, where a loss or scores are not finite numbers."""

from __future__ import annotations

import torch

from recbole_gen.config.blame import far_settings
from recbole_gen.config.config import Config

SHOWN = 3
"""Tensors that a message names."""


def usual_causes(config: Config, untrained: bool = False) -> str:
    """Sentences about what to look at first; ``untrained``: no step has changed the weights yet.

    What the user has set far from its default comes first. No key is blamed alone that cannot be known to be the cause.
    """
    rate, far = config["learning_rate"], far_settings(config)
    causes = ["extreme values in float features", "a setting far from its usual range"]
    if config["enable_amp"]:
        causes.append("enable_amp, whose half precision ends at 65504")
    if untrained:
        text = f"No step has changed the weights yet, so that learning_rate is not the cause: {_any_of(causes)} may be."
    else:
        clip = "" if config["clip_grad_norm"] else ", or --clip_grad_norm='{max_norm: 1.0}'"
        steps = f"steps that are too large (learning_rate {rate}: a smaller one{clip})"
        text = f"Usual causes: {_any_of([steps, *causes])}."
    return f"Far from the defaults: {', '.join(far)}. {text}" if far else text


def describe_bad_scores(config: Config, model: torch.nn.Module) -> str:
    """A message about scores that are not numbers: whether the weights still are, and the usual causes."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    bad = [name for name, values in tensors.items() if not torch.isfinite(values).all()]
    more = " ..." if len(bad) > SHOWN else ""
    state = f"not finite any more ({', '.join(bad[:SHOWN])}{more})" if bad else "finite, and what it computes is not"
    return f"{config['model']} gives scores that are not numbers: its weights are {state}. {usual_causes(config)}"


def _any_of(causes: list[str]) -> str:
    return f"{', '.join(causes[:-1])} or {causes[-1]}"
