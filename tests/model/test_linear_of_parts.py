"""A linear layer of vectors side by side, some of which are shared by several rows."""

import pytest
import torch
import torch.nn.functional as F

from recbole_gen.model.layers import LinearOfParts


@pytest.mark.parametrize("leading", [(), (2,), (3, 2)])
@pytest.mark.parametrize("step_rows", [5, 1])
def test_is_the_layer_of_all_parts_side_by_side(leading, step_rows):
    torch.manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    given = draw(4, 9), draw(4), draw(*leading, 5, 3), draw(5, 2), draw(step_rows, 4)
    weight, bias, *parts = given
    wide = torch.cat([part.expand(*leading, 5, part.shape[-1]) for part in parts], dim=-1)
    expected = F.linear(wide, weight, bias)
    torch.testing.assert_close(LinearOfParts.apply(*given), expected)
    upstream = torch.randn_like(expected)
    found = torch.autograd.grad(LinearOfParts.apply(*given), given, upstream)
    for gradient, plain in zip(found, torch.autograd.grad(expected, given, upstream)):
        torch.testing.assert_close(gradient, plain)
    assert torch.autograd.gradcheck(LinearOfParts.apply, given)


def test_inputs_without_gradient_get_none():
    weight, bias = torch.randn(4, 5, requires_grad=True), torch.randn(4)
    x, h = torch.randn(6, 3), torch.randn(6, 2, requires_grad=True)
    LinearOfParts.apply(weight, bias, x, h).sum().backward()
    assert weight.grad is not None and h.grad is not None and x.grad is None and bias.grad is None


def test_trains_under_autocast():
    weight, bias = torch.randn(4, 5, requires_grad=True), torch.randn(4, requires_grad=True)
    x, h = torch.randn(6, 3, requires_grad=True), torch.randn(6, 2).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        LinearOfParts.apply(weight, bias, x, h).sum().backward()
    for each in (weight, bias, x, h):
        assert each.grad.dtype == each.dtype and each.grad.isfinite().all()
    torch.testing.assert_close(weight.grad, torch.cat([x, h.float()], 1).sum(0).expand(4, 5), rtol=0.02, atol=0.02)
