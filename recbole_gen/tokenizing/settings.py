"""The settings of `tokenize`: their defaults, and what they may be. Nothing large is imported."""

from __future__ import annotations

import math
from typing import Any

from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import is_number, is_whole

METHODS = ("kmeans", "rqvae")
LEARNERS = ("adam", "adagrad", "sgd")
RQVAE_DEFAULTS: dict[str, Any] = {
    "epochs": None, "batch_size": 256, "learner": "adam", "learning_rate": 0.001, "hidden_sizes": [512, 256, 128],
    "latent_size": 32, "commitment": 0.25, "restart_dead_codes": True,
}  # fmt: skip
DATASET_DEFAULTS: dict[str, Any] = {"data_path": "dataset", "item": ""}
DEFAULTS: dict[str, Any] = {
    "item_vectors": "", "output": "", "method": "kmeans", "levels": 3, "codes": 256, "seed": 2020, "dataset": "",
    **DATASET_DEFAULTS, **RQVAE_DEFAULTS,
}  # fmt: skip
WHOLE = {
    "levels": (1, 16), "codes": (2, 1 << 16), "seed": (0, (1 << 32) - 1), "epochs": (1, 1 << 32),
    "batch_size": (1, 1 << 32), "latent_size": (1, 1 << 16),
}  # fmt: skip
"""Option -> the least and the largest whole number that it may be."""


def check_options(values: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise UserError for a value that an option cannot have, or an option that does not go with the others."""
    for key, known in (("method", METHODS), ("learner", LEARNERS)):
        if values[key] not in known:
            near = did_you_mean(values[key], known)
            raise UserError(f"--{key} must be one of {', '.join(known)}, got {values[key]}.{near}")
    for key, (least, most) in WHOLE.items():
        if values[key] is None and DEFAULTS[key] is None:
            continue
        if not is_whole(values[key]) or not least <= values[key] <= most:
            raise UserError(f"--{key} must be a whole number from {least} to {most}, got {values[key]!r}")
    for key, what in (("learning_rate", "above 0"), ("commitment", "from 0 on")):
        value = values[key]
        if not is_number(value) or not 0 <= value < math.inf or (value == 0 and key == "learning_rate"):
            raise UserError(f"--{key} must be a number {what}, got {value!r}")
    sizes = values["hidden_sizes"]
    if not isinstance(sizes, list) or not all(is_whole(size) and 0 < size <= 1 << 16 for size in sizes):
        raise UserError(f"--hidden_sizes must be a list of whole numbers from 1 on, such as [512, 256], got {sizes!r}")
    for needed, others in ((values["method"] == "rqvae", RQVAE_DEFAULTS), (values["dataset"], DATASET_DEFAULTS)):
        if not needed and (alone := next((key for key in given if key in others), None)):
            what = "--method=rqvae" if others is RQVAE_DEFAULTS else "--dataset=NAME"
            raise UserError(f"--{alone} does nothing without {what}; `recbole-gen tokenize --help` says what does")
