"""RecBole's attention by fewer steps gives what it gives."""

import pytest
import torch
from recbole.model.layers import MultiHeadAttention

import recbole_gen  # noqa: F401  (makes the layers fast)


@pytest.mark.parametrize("kind", ["added", "bool", "none"])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_one_query_reads_what_it_reads_among_all(kind, heads):
    torch.manual_seed(0)
    layer = MultiHeadAttention(heads, 16, 0.0, 0.0, 1e-12).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(5, 7, 16, dtype=torch.float64, requires_grad=True)
    readable = torch.arange(7) < torch.tensor([7, 4, 7, 5, 4]).view(-1, 1, 1, 1)
    added = torch.zeros(5, 1, 1, 7, dtype=torch.float64).masked_fill(~readable, -1e4)
    mask = {"added": added, "bool": readable, "none": None}[kind]
    among_all, alone = layer(x, mask)[:, 3:4], layer(x, mask, queries=x[:, 3:4])
    torch.testing.assert_close(alone, among_all)
    weight, read = torch.randn_like(alone), [x, *layer.parameters()]
    wanted = torch.autograd.grad((among_all * weight).sum(), read)
    found = torch.autograd.grad((alone * weight).sum(), read)
    for got, each in zip(found, wanted):
        torch.testing.assert_close(got, each, rtol=1e-9, atol=1e-9)


def test_dropout_of_one_query_keeps_the_mean():
    torch.manual_seed(0)
    layer = MultiHeadAttention(2, 8, 0.0, 0.3, 1e-12)
    layer.LayerNorm = torch.nn.Identity()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 6, 8).expand(20_000, -1, -1)
    with torch.no_grad():
        mean = layer(x, None, queries=x[:, -1:]).mean(0)
        expected = layer.eval()(x[:1], None, queries=x[:1, -1:])[0]
    torch.testing.assert_close(mean, expected, rtol=0.05, atol=0.1)
