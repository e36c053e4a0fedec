"""Models of RecBole that compute on padding and let none of it into their result: they encode by length."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from recbole_gen.model.alike_lengths import encodes_by_length

READ_PADDING = {
    "Caser": "its filters are as high as the batch is wide",
    "DIEN": "normalises over all rows and positions of a batch",
    "DIN": "normalises over all rows of a batch",
    "FEARec": "transforms over the width of the batch, to frequencies",
    "FOSSIL": "reads the last items, as many as its setting says, of a batch that must be as wide",
    "FPMC": "reads the last item only",
    "GRU4RecCPR": "reads the last column, also of short histories",
    "HGN": "its gates are as wide as the batch",
    "HRM": "takes maxima over padding, too",
    "LightSANs": "projects all positions on a few",
    "NPE": "adds the vector of padding, which it trains, for each place of it",
    "NextItNet": "reads the last column, also of short histories",
    "RepeatNet": "repeats vectors to the width of its setting",
    "SASRecCPR": "reads the last column, also of short histories",
    "SHAN": "reads the last columns, also of short histories",
    "SINE": "attends to padding",
    "STAMP": "adds the vector of padding, whose first values are not 0, for each place of it",
    "TransRec": "reads the last item only",
}
"""The sequential models that do not encode by length, and why not."""


def encode_by_length(module: ModuleType) -> None:
    """RecBole pads all histories to MAX_ITEM_LIST_LENGTH, and its models compute on all of that: on logs of short
    histories most of the work, for the same result. Not so for classes that inherit from them: who knows what they
    read."""
    model_class = _model_of(module)
    model_class.forward = encodes_by_length(model_class.forward, lambda model, _: type(model) is model_class)


def encode_positions_by_length(module: ModuleType) -> None:
    """The same where `forward` gives the states of all positions, and those of padding are not read: bert4rec.py. Of
    s3rec.py only in fine-tuning, which is not bidirectional; pre-training reads the last column."""
    model_class = _model_of(module)

    def applies(model: Any, arguments: dict[str, Any]) -> bool:
        return type(model) is model_class and not arguments.get("bidirectional", model_class.__name__ == "S3Rec")

    model_class.forward = encodes_by_length(model_class.forward, applies, all_positions=True)


def _model_of(module: ModuleType) -> Any:
    """The model that RecBole finds in a module, by its name in lower case (`recbole.utils.get_model`)."""
    name = module.__name__.rpartition(".")[2]
    return next(value for key, value in vars(module).items() if key.lower() == name and isinstance(value, type))
