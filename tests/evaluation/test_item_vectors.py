"""Where the vectors of items are looked for: the attribute that the class names, a method, item_embedding."""

import pytest
import torch

from recbole_gen.errors import UserError
from recbole_gen.evaluation.item_vectors import item_vectors


class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.item_embedding = torch.nn.Embedding(6, 3)
        self.table = torch.nn.Parameter(torch.rand(5, 2))


class Named(Plain):
    item_vectors_name = "table"


class Method(Plain):
    def item_vectors(self):
        return 2 * self.table


class Both(Method):
    item_vectors_name = "table"


def test_the_named_attribute_is_before_the_method_and_that_before_item_embedding():
    plain, named, method, both = Plain(), Named(), Method(), Both()
    assert torch.equal(item_vectors(plain, 5), plain.item_embedding.weight[:5])  # not the row of a [MASK]
    assert torch.equal(item_vectors(named, 5), named.table)
    assert torch.equal(item_vectors(method, 5), 2 * method.table)
    assert torch.equal(item_vectors(both, 5), both.table)
    assert not any(item_vectors(model, 5).requires_grad for model in (plain, named, method))


def test_a_model_without_a_table_has_none():
    assert item_vectors(torch.nn.Linear(2, 2), 5) is None
    plain = Plain()
    assert item_vectors(plain, 7) is None  # a table of something else
    plain.item_embedding = torch.nn.ModuleList()
    assert item_vectors(plain, 5) is None


def test_what_a_class_says_must_be_there():
    with pytest.raises(UserError, match=r"Named: item_vectors_name is 'table', which is no table .* each of 6 items"):
        item_vectors(Named(), 6)
    with pytest.raises(UserError, match=r"Method: item_vectors\(\) returns no table"):
        item_vectors(Method(), 6)
