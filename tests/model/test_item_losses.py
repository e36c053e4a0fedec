import pytest
import torch
import torch.nn.functional as F

from recbole_gen.model import item_losses
from recbole_gen.model.item_losses import gbce_loss, sampled_softmax_loss, softmax_loss


def problem(targets: int, items: int, size: int, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(targets, size, generator=draw, dtype=torch.float64, requires_grad=True)
    table = torch.randn(items, size, generator=draw, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(items, generator=draw, dtype=torch.float64, requires_grad=True)
    return states, table, bias, torch.randint(items, (targets,), generator=draw)


@pytest.mark.parametrize("most", [2**24, 1], ids=["by targets", "by items"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("targets, items", [(1, 2), (300, 7), (5, 3000), (257, 1500)])
def test_softmax_in_parts_is_cross_entropy(monkeypatch, targets, items, with_bias, most):
    monkeypatch.setattr(item_losses, "MOST_LOGITS", most)
    monkeypatch.setattr(item_losses, "LOGITS", 2**12)
    states, table, bias, target = problem(targets, items, 6)
    bias = bias if with_bias else None
    inputs = [each for each in (states, table, bias) if each is not None]
    loss = softmax_loss(states, table, target, bias)
    logits = states @ table.T if bias is None else states @ table.T + bias
    wanted = F.cross_entropy(logits, target)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-12)
    for mine, theirs in zip(torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * wanted, inputs)):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_softmax_of_huge_logits_is_finite():
    states = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    table = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    loss = softmax_loss(states, table, torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4) and torch.isfinite(states.grad).all() and torch.isfinite(table.grad).all()


def test_softmax_under_autocast_is_in_single_precision():
    states, table, _, target = problem(20, 50, 8)
    states, table = states.detach().float(), table.detach().float()
    with torch.autocast("cpu"):
        loss = softmax_loss((states @ torch.eye(8)), table, target)
    assert loss.dtype == torch.float32


def test_sampled_softmax_of_many_samples_approaches_the_softmax():
    states, table, bias, target = problem(50, 40, 4)
    target = target.clamp(min=1)
    wanted = softmax_loss(states, table[1:], target - 1, bias[1:])
    torch.manual_seed(0)
    estimates = torch.stack([sampled_softmax_loss(states, table, target, 2000, bias) for _ in range(20)])
    assert estimates.mean().item() == pytest.approx(wanted.item(), rel=0.02)


def test_a_drawn_target_is_no_negative_item_of_its_own():
    states, table, _, _ = problem(6, 2, 4)
    target = torch.ones(6, dtype=torch.long)  # the only item that can be drawn
    assert sampled_softmax_loss(states, table, target, 5).item() == 0
    wanted = (F.softplus(-(states * table[1]).sum(1))).mean()
    assert gbce_loss(states, table, target, 5, 0.0).item() == pytest.approx(wanted.item())


def test_gbce_weighs_the_positive_by_beta():
    states, table, _, _ = problem(4, 12, 3)
    target = torch.tensor([1, 2, 3, 4])
    k, t = 5, 0.75
    torch.manual_seed(3)
    drawn = torch.randint(1, 12, (k,))
    torch.manual_seed(3)
    loss = gbce_loss(states, table, target, k, t)
    alpha = k / (11 - 1)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    wanted = 0.0
    for state, own in zip(states, target):
        wanted -= torch.log(torch.sigmoid(state @ table[own]) ** beta).item()
        for item in drawn[drawn != own]:
            wanted -= torch.log(1 - torch.sigmoid(state @ table[item])).item()
    assert loss.item() == pytest.approx(wanted / 4)


@pytest.mark.parametrize("t, beta", [(0.0, 1.0), (1.0, 0.5)])
def test_the_calibration_of_gbce(t, beta):
    """t = 0 is binary cross-entropy; t = 1 has beta = alpha, the share of the items that are drawn."""
    states = torch.zeros(1, 3, dtype=torch.float64)
    table = torch.zeros(12, 3, dtype=torch.float64)
    torch.manual_seed(0)
    loss = gbce_loss(states, table, torch.tensor([11]), 5, t)
    torch.manual_seed(0)
    others = int((torch.randint(1, 12, (5,)) != 11).sum())
    assert loss.item() == pytest.approx((beta + others) * torch.tensor(2.0).log().item())
