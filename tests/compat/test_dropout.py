import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recbole_gen.compat.dropout import Dropout, attention, dropout, dropout_factors, use_fast_dropout


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_the_rate_and_the_mean_are_kept(p):
    torch.manual_seed(0)
    factors = dropout_factors((2000, 501), p, torch.zeros(1))
    assert factors.shape == (2000, 501)
    assert (factors == 0).float().mean().item() == pytest.approx(p, abs=2e-3)
    assert factors[factors != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)
    # neighbours share a random word, and must not share a fate
    kept = (factors != 0).float() - (1 - p)
    for distance in (1, 2, 3, 4):
        assert (kept[:, distance:] * kept[:, :-distance]).mean().abs() < 1e-3


def test_evaluation_and_a_rate_of_0_leave_the_input_alone():
    x = torch.randn(3, 4)
    state = torch.get_rng_state()
    assert dropout(x, 0.5, False) is x and dropout(x, 0.0, True) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rate_of_1_drops_everything():
    x = torch.randn(3, 4, requires_grad=True)
    y = dropout(x, 1.0, True)
    y.sum().backward()
    assert (y == 0).all() and (x.grad == 0).all()


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
