"""What a model asks of the data, before anything is loaded."""

from __future__ import annotations


def needs(config, what: str) -> bool:
    """Whether the model reads ``times``, ``scenes`` or ``future`` events, as its static `needs_<what>(config)` says."""
    ask = getattr(config.model_class, f"needs_{what}", None)
    return ask is not None and ask(config)
