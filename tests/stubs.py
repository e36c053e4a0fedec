"""What the tests of single models and runs share: a stand-in configuration, and equality bit for bit."""

import torch


class Config(dict):
    """Like RecBole's: a missing key reads as None."""

    def __missing__(self, key):
        return None


class Items:
    """A data set of so many items, padding included."""

    def __init__(self, n_items: int):
        self.n_items = n_items

    def num(self, field):
        return self.n_items


def equal(a, b) -> bool:
    """Equal bit for bit, through dicts and lists, tensors included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b
