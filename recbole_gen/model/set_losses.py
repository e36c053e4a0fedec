"""Binary cross-entropy over all candidates, of which each row is to predict a set: DSPnet's eq. 6."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

LOGITS = 2**20
"""Logits that are computed together: a batch goes through more candidates in parts, which stay in the cache."""

Labels = Callable[[int, int], torch.Tensor]
"""(start, stop) -> which of the candidates start + 1 .. stop each of P rows is to predict, [P, stop - start] bool."""


def _places(ids: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Where the ids [B, W] are in a flat [B, stop - start], one behind its end for those that are not in it."""
    width = stop - start
    row = torch.arange(0, len(ids) * width, width, device=ids.device).unsqueeze(1)
    inside = (ids > start) & (ids <= stop)
    return torch.where(inside, row + (ids - (start + 1)), len(ids) * width).flatten()


def labels_of_sets(ids: torch.Tensor) -> Labels:
    """Labels of rows with the ids [B, W] each, in any order, repeated or not, 0 for none."""

    def labels(start: int, stop: int) -> torch.Tensor:
        flat = torch.zeros(len(ids) * (stop - start) + 1, dtype=torch.bool, device=ids.device)
        return flat.index_fill_(0, _places(ids, start, stop), True)[:-1].view(len(ids), -1)

    return labels


def labels_of_later(later: torch.Tensor, row: torch.Tensor, step: torch.Tensor, most: int | None) -> Labels:
    """Labels of the P positions of windows: what is in ``later`` from a position on.

    Args:
        later: [W, F] the events behind the first of each window, 0 where there are fewer.
        row, step: [P] window of each position, and its place in it, the first 0.
        most: events from a position on that are to be predicted; None for all of them.
    """
    if most is not None and most < later.shape[1]:
        place = step.unsqueeze(1) + torch.arange(most, device=later.device)
        return labels_of_sets(F.pad(later, (0, most))[row.unsqueeze(1), place])
    # An id is ahead of a position as long as its last occurrence is: one table a window, not one a position.
    places = torch.arange(later.shape[1], device=later.device).expand_as(later).flatten()

    def labels(start: int, stop: int) -> torch.Tensor:
        last = torch.full((len(later) * (stop - start) + 1,), -1, device=later.device)
        last.scatter_reduce_(0, _places(later, start, stop), places, "amax")
        return last[:-1].view(len(later), -1).int()[row] >= step.int().unsqueeze(1)

    return labels


class _LabelledLogistic(torch.autograd.Function):
    """Sum of softplus(x) - y x over all logits x = o rows' + bias with labels y, never more than a part at once.

    The gradient of a logit, sigmoid(x) - y, is multiplied with the same two matrices, so it is computed on the way.
    """

    @staticmethod
    def forward(ctx, o: torch.Tensor, rows: torch.Tensor, bias: torch.Tensor, labels: Labels, part: int):
        """o [P, d], rows [K, d], bias (), candidates in a part -> ()."""
        total, grad_o, grad_rows = o.new_zeros(()), torch.zeros_like(o), torch.empty_like(rows)
        for start in range(0, len(rows), part):
            some = slice(start, min(start + part, len(rows)))
            y = labels(some.start, some.stop).to(o.dtype)
            x = (o @ rows[some].T).add_(bias)
            total += F.softplus(x).sum() - torch.dot(x.flatten(), y.flatten())
            p = x.sigmoid_().sub_(y)
            grad_o += p @ rows[some]
            torch.mm(p.T, o, out=grad_rows[some])
        ctx.save_for_backward(grad_o, grad_rows)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        """Gradients of o and rows; bias is a constant."""
        grad_o, grad_rows = ctx.saved_tensors
        return grad * grad_o, grad * grad_rows, None, None, None


def full_bce(o: torch.Tensor, rows: torch.Tensor, labels: Labels, bias: torch.Tensor, limit: int = LOGITS):
    """Over all candidates: softplus(x) of every logit, minus x of the positives; a sum over these, a mean over rows.

    o [P, d]; rows [K, d], candidate k in row k - 1; bias (), added to each logit; limit, logits that are computed
    together.
    """
    with torch.autocast(o.device.type, enabled=False):
        o = o.to(rows.dtype)
        return _LabelledLogistic.apply(o, rows, bias.to(rows), labels, max(1, limit // len(o))) / len(o)


def sampled_bce(o: torch.Tensor, rows: torch.Tensor, positives: torch.Tensor, bias: torch.Tensor, num_sampled: int):
    """Estimate of `full_bce` without bias: negatives drawn evenly, the same for all rows, stand for the others.

    positives [B, W] as `distinct` gives them.
    """
    with torch.autocast(o.device.type, enabled=False):
        o = o.to(rows.dtype)
        drawn = torch.randint(1, len(rows) + 1, (num_sampled,), device=o.device)
        place = torch.searchsorted(positives, drawn.expand(len(o), -1).contiguous()).clamp(max=positives.shape[1] - 1)
        hit = positives.gather(1, place) == drawn  # [B, m]: a positive of this row
        x = F.linear(o, F.embedding(drawn - 1, rows), bias.expand(num_sampled))
        weight = (len(rows) - (positives != 0).sum(1)) / (~hit).sum(1).clamp(min=1)
        negatives = weight * F.softplus(x).masked_fill(hit, 0).sum(1)
        x = (o.unsqueeze(1) * F.embedding((positives - 1).clamp(min=0), rows)).sum(-1) + bias
        return (negatives + F.softplus(-x).masked_fill(positives == 0, 0).sum(1)).mean()
