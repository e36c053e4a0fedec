"""Whole numbers that stand in a log in two spellings, 5 and 5.0: files hold text, so that they are two tokens."""

from __future__ import annotations

import numpy as np

from recbole_gen.compat.filters import SHOWN, note
from recbole_gen.errors import counted


def whole_numbers_in_two_spellings(tokens: np.ndarray) -> list[str]:
    """Tokens of whole numbers that occur with and without a decimal point, without it, in their order."""
    known = set(map(str, tokens))
    short = (token.rstrip("0").removesuffix(".") for token in map(str, tokens) if token.endswith((".0", ".00")))
    return [token for token in short if token.lstrip("-").isdigit() and token in known]


def tell_two_spellings(dataset) -> None:
    """Warn of users and items of a data set that are whole numbers in two spellings."""
    for field in (dataset.uid_field, dataset.iid_field):
        twice = whole_numbers_in_two_spellings(dataset.field2id_token.get(field, np.array([])))
        if twice:
            shown = ", ".join(f"{token} and {token}.0" for token in twice[:SHOWN])
            note(
                dataset,
                f"data set '{dataset.dataset_name}': {counted(len(twice), 'whole number', 'occur')} with and without a "
                f"decimal point in '{field}' ({shown}{', ...' if len(twice) > SHOWN else ''}). The files hold text, so "
                f"that these are different ones: write them in one way, or make the data set by `prepare`",
            )
