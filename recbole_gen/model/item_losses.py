"""Losses of the next item: over the whole catalogue, computed in parts, or over a sample of it.

The scores of an item are an inner product, states @ table.T, as in SASRec, GRU4Rec, DiffRec or ACVAE.

    softmax          cross-entropy over all items; the gradient is computed on the way, so that the logits of no more
                     than a part are ever in memory
    sampled_softmax  cross-entropy over the target and m items that are drawn evenly, each standing for (n - 1) / m
                     others (Bengio and Senecal, "Quick Training of Probabilistic Neural Nets by Importance Sampling",
                     AISTATS 2003)
    gBCE             Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with
                     Negative Sampling", RecSys 2023, eq. 17 and 25

Different from the paper of gBCE, the drawn items are the same for all targets of a batch (theirs are drawn for each),
and the terms of the drawn items are divided by nothing, as in its eq. 25.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from recbole_gen.model.kept_items import KeptItems, places_of_kept, rows_of_kept

LOGITS = 2**20
"""Logits of a part of the targets: 4 MiB, which stay in the cache on their way from one product to the next."""

LEAST_TARGETS = 128
"""Targets of a part, at least: products of fewer rows are slow."""

MOST_LOGITS = 2**24
"""Logits of a part, at most: beyond, parts are of items, whose logits are computed twice."""

ITEMS = 1024
"""Items of such a part."""


class _Softmax(torch.autograd.Function):
    """Mean over targets of -log softmax(states table' + bias)[target], with its gradient."""

    @staticmethod
    def forward(ctx, states: torch.Tensor, table: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor):
        compute = _by_targets if LEAST_TARGETS * len(table) <= MOST_LOGITS else _by_items
        loss, grad_states, grad_table, grad_bias = compute(states, table, bias, targets)
        ctx.save_for_backward(grad_states, grad_table, grad_bias)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        grads = ctx.saved_tensors
        return *(None if each is None else each * grad for each in grads), None


def _by_targets(states, table, bias, targets):
    """All logits of some targets at a time: each is computed once."""
    number, part = len(states), max(LEAST_TARGETS, LOGITS // len(table))
    grad_states, grad_table = torch.empty_like(states), torch.zeros_like(table)
    grad_bias = None if bias is None else torch.zeros_like(bias)
    total = states.new_zeros(())
    buffer = states.new_empty(min(part, number), len(table))
    for start in range(0, number, part):
        some = states[start : start + part]
        p, own = buffer[: len(some)], targets[start : start + part].unsqueeze(1)
        if bias is None:
            torch.mm(some, table.T, out=p)
        else:
            torch.addmm(bias, some, table.T, out=p)
        logit = p.gather(1, own)
        highest = p.amax(1, keepdim=True)
        size = p.sub_(highest).exp_().sum(1, keepdim=True)
        total += (size.log() + highest - logit).sum()
        p.mul_(1 / (size * number)).scatter_add_(1, own, p.new_full(own.shape, -1 / number))
        torch.mm(p, table, out=grad_states[start : start + part])
        grad_table.addmm_(p.T, some)
        if grad_bias is not None:
            grad_bias += p.sum(0)
    return total / number, grad_states, grad_table, grad_bias


def _by_items(states, table, bias, targets):
    """The logits of some items at a time, once for the size of the softmax and once more for the gradient."""
    number, part = len(states), max(ITEMS, LOGITS // max(1, len(states)))
    grad_states, grad_table = torch.zeros_like(states), torch.empty_like(table)
    grad_bias = None if bias is None else torch.empty_like(bias)

    def logits(some: slice) -> torch.Tensor:
        return states @ table[some].T if bias is None else torch.addmm(bias[some], states, table[some].T)

    parts = [slice(start, start + part) for start in range(0, len(table), part)]
    size = states.new_full((number,), -torch.inf)  # its logarithm
    for some in parts:
        size = torch.logaddexp(size, logits(some).logsumexp(1))
    for some in parts:
        p = logits(some).sub_(size.unsqueeze(1)).exp_().mul_(1 / number)
        grad_states.addmm_(p, table[some])
        torch.mm(p.T, states, out=grad_table[some])
        if grad_bias is not None:
            torch.sum(p, 0, out=grad_bias[some])
    rows = table[targets]
    own = (states * rows).sum(1) if bias is None else (states * rows).sum(1) + bias[targets]
    grad_states.sub_(rows, alpha=1 / number)
    grad_table.index_add_(0, targets, states, alpha=-1 / number)
    if grad_bias is not None:
        grad_bias.index_add_(0, targets, torch.full_like(own, -1 / number))
    return (size - own).mean(), grad_states, grad_table, grad_bias


def softmax_loss(
    states: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy over all rows of the table, averaged over the targets: a number.

    As `torch.nn.functional.cross_entropy(states @ table.T + bias, targets)`, in parts. It can be differentiated once.

    Args:
        states: [P, d].
        table: [n, d].
        targets: [P], rows of the table.
        bias: [n], or None.
    """
    with torch.autocast(states.device.type, enabled=False):
        return _Softmax.apply(states.to(table.dtype), table, bias, targets)


def _drawn_logits(states, table, targets, bias, drawn):
    """Logits of the targets [P] and of the drawn items [P, m], and where a drawn item is the target [P, m]."""
    states = states.to(table.dtype)
    rows = F.embedding(torch.cat([targets, drawn]), table)
    added = None if bias is None else bias[drawn]
    own = (states * rows[: len(targets)]).sum(1)
    if bias is not None:
        own = own + bias[targets]
    return own, F.linear(states, rows[len(targets) :], added), drawn == targets.unsqueeze(1)


def _draw(table: torch.Tensor, number: int) -> torch.Tensor:
    """Rows of the table, drawn evenly, but for the first, which is padding: [number]."""
    return torch.randint(1, len(table), (number,), device=table.device)


def sampled_softmax_loss(
    states: torch.Tensor,
    table: torch.Tensor,
    targets: torch.Tensor,
    number: int,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Estimate of `softmax_loss` over all rows but that of padding, from ``number`` of them, drawn evenly: a number.

    Shapes as there.
    """
    with torch.autocast(states.device.type, enabled=False):
        own, others, is_target = _drawn_logits(states, table, targets, bias, _draw(table, number))
        stands_for = max(1, len(table) - 2) / (~is_target).sum(1).clamp(min=1)
        others = (others + stands_for.log().unsqueeze(1)).masked_fill(is_target, -torch.inf)
        return (torch.cat([own.unsqueeze(1), others], 1).logsumexp(1) - own).mean()


def gbce_loss(
    states: torch.Tensor,
    table: torch.Tensor,
    targets: torch.Tensor,
    number: int,
    calibration: float,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """gBCE with ``number`` negative items, none of them padding, and t = ``calibration``, averaged over the targets.

    t = 0 is binary cross-entropy; with t = 1 the sigmoid of a score is calibrated. Shapes as in `softmax_loss`.
    """
    with torch.autocast(states.device.type, enabled=False):
        own, others, is_target = _drawn_logits(states, table, targets, bias, _draw(table, number))
        rate = min(1.0, number / max(1, len(table) - 2))  # alpha, eq. 16
        beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)  # eq. 25
        negatives = F.softplus(others).masked_fill(is_target, 0).sum(1)
        return (beta * F.softplus(-own) + negatives).mean()


class ItemLoss:
    """The loss that the keys ``loss``, ``loss_negatives`` and ``gbce_t`` choose.

    Args:
        first: the first row of the table that is an item: RecBole's models count padding as a class of their softmax.
        kept_items: the rows that count, padding among them; None for all.
    """

    def __init__(self, config, first: int = 1, kept_items: KeptItems | None = None):
        self.kind, self.number, self.calibration = config["loss"], config["loss_negatives"], config["gbce_t"]
        self.first, self.kept_items = first, kept_items

    def __call__(
        self, states: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A number, the mean over the targets; shapes as in `softmax_loss`."""
        table, targets = rows_of_kept(table, self.kept_items), places_of_kept(targets, self.kept_items)
        bias = None if bias is None else rows_of_kept(bias, self.kept_items)
        if self.kind == "softmax":
            if self.first:
                table, targets = table[self.first :], targets - self.first
                bias = None if bias is None else bias[self.first :]
            return softmax_loss(states, table, targets, bias)
        if self.kind == "sampled_softmax":
            return sampled_softmax_loss(states, table, targets, self.number, bias)
        return gbce_loss(states, table, targets, self.number, self.calibration, bias)
