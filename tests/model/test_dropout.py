"""Dropout with short random numbers: torch's, but for its stream."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recbole_gen.model.dropout import Dropout, attention, dropout, use_fast_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_its_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    n = 400_003
    x = torch.full((n,), 3.0, requires_grad=True)
    y = Dropout(p)(x)
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - p) < 4 * math.sqrt(p * (1 - p) / n)
    kept = y.detach()[y != 0]
    assert kept.unique().numel() == 1 and kept[0].item() == pytest.approx(3 / (1 - p), rel=2**-13)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / 3)


def test_numbers_are_independent():
    torch.manual_seed(1)
    kept = (Dropout(0.5)(torch.ones(2**18)) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 8):  # four numbers come from one word
        correlation = (kept[lag:] * kept[:-lag]).mean() * 4
        assert abs(correlation) < 4 / 2**9
    assert kept.view(-1, 4).mean(0).abs().max() < 4 / 2**9


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5, 7, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_shape_and_precision(shape, dtype):
    y = Dropout(0.25)(torch.ones(shape, dtype=dtype))
    assert y.shape == shape and y.dtype == dtype
    assert set(y.flatten().tolist()) <= {0.0, torch.tensor(4 / 3, dtype=dtype).item()}


def test_seed_evaluation_and_the_ends():
    x, layer = torch.randn(50), Dropout(0.5)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first) and not torch.equal(layer(x), first)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x) and torch.equal(Dropout(1.0)(x), torch.zeros(50))


def test_the_gradient_goes_where_the_values_went():
    x = torch.randn(50, 50, requires_grad=True)
    y = dropout(x, 0.3, True)
    y.sum().backward()
    torch.testing.assert_close(y, x.detach() * x.grad)


def test_every_dropout_of_a_model_is_replaced_once():
    model = nn.Sequential(
        nn.Linear(2, 2), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.0)), nn.Dropout(0.1, inplace=True)
    )
    use_fast_dropout(model)
    use_fast_dropout(model)
    assert [type(module) for module in (model[1], model[2][0], model[3])] == [Dropout, Dropout, nn.Dropout]
    assert model[1].p == 0.3 and list(model.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("kind", ["bool", "float", "causal", None])
def test_attention_is_that_of_torch_but_for_what_is_dropped(kind):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 5, 4).unbind()
    seen = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    seen[0, :, :, 3:] = False
    mask = {"bool": seen, "float": torch.zeros(seen.shape).masked_fill(~seen, -1e4)}.get(kind)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=kind == "causal")
    torch.testing.assert_close(attention(q, k, v, mask, 0.0, kind == "causal"), wanted)
    torch.testing.assert_close(attention(q, k, v, mask, 1e-9, kind == "causal"), wanted)  # a rate that drops nothing
    mean = torch.stack([attention(q, k, v, mask, 0.3, kind == "causal") for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, wanted, atol=0.05, rtol=0)
