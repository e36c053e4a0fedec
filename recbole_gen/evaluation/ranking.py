"""Hits and ranks without B x I one-hots, and RecBole's metrics on them.

A score matrix has one row a user (or history) and one column an item; column 0 is padding. Excluded items score -inf,
and items that the model has not come to `NOT_FOUND`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metric_information, metrics_dict

from recbole_gen.evaluation.ties import top_scored
from recbole_gen.model.layers import NOT_FOUND, distinct

EXTRA_TASKS = {"period": "all later items", "scene": "next scene", "scene_period": "all later scenes"}
"""What is measured beside the run's own metrics, by the prefix of the names, as in scene_recall@5."""


def top_items(scores: torch.Tensor, k: int, order: torch.Tensor) -> torch.Tensor:
    """The best k columns of each row of scores [B, I]; 0 where nothing is left but what is excluded or was not found.

    order: [I] which of equal scores comes first, see `ties`.
    """
    values, ids = top_scored(scores, k, order)
    return ids.masked_fill(values <= NOT_FOUND, 0)


def hit_matrix(top: torch.Tensor, positive_u: torch.Tensor, positive_i: torch.Tensor) -> torch.Tensor:
    """RecBole's `rec.topk`: for each row, which of its top k items are positive, and how many positives it has.

    top: [B, k] item ids; positive_u, positive_i: [P] row and item of each positive. Returns [B, k + 1] int.
    """
    width = int(max(top.max(), positive_i.max())) + 1 if len(positive_i) else 1
    rows = torch.arange(len(top), device=top.device).unsqueeze(1)
    found = torch.isin(rows * width + top, positive_u * width + positive_i)
    count = torch.bincount(positive_u, minlength=len(top)).unsqueeze(1)
    return torch.cat([found.int(), count.int()], dim=1)


def distinct_positives(future: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and item of each positive, once, of sets [B, W] padded with 0."""
    items = distinct(future)
    rows, columns = items.nonzero(as_tuple=True)
    return rows, items[rows, columns]


def target_ranks(scores: torch.Tensor, positive_u: torch.Tensor, positive_i: torch.Tensor) -> torch.Tensor:
    """Rank of each positive among all items, [P], from 1; equal scores share the mean of their ranks."""
    greater, equal = count_scores_beside(scores, positive_u, positive_i)
    return greater + (equal + 1) / 2


def count_scores_beside(
    scores: torch.Tensor, positive_u: torch.Tensor, positive_i: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many items of its row score more than each positive, and how many the same, itself included: [P] each."""
    parts = [(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))] if not len(positive_u) else []
    for u, i in zip(positive_u.split(1024), positive_i.split(1024), strict=True):
        if len(u):
            own = scores[u, i].unsqueeze(1)
            parts.append(((scores[u] > own).sum(1), (scores[u] == own).sum(1)))
    greater, equal = (torch.cat(part) for part in zip(*parts, strict=True))
    return greater, equal


class TopKCollector(Collector):
    """RecBole's collector with the same results: hits by comparison instead of a B x I one-hot, parts joined once.

    Attributes:
        tie_order: [I] which of equal scores comes first, see `ties`; to be set before anything is collected.
    """

    tie_order: torch.Tensor

    def __init__(self, config):
        super().__init__(config)
        self._parts: dict[str, list[torch.Tensor]] = {}

    def set_training_counts(self, counts: torch.Tensor) -> None:
        """Have metrics that ask how often items occur in training read these [n_items], in the order of ties.

        RecBole counts the rows of the training part, of which a user's first event is none in a sequential model.
        """
        if self.register.need("data.count_items"):
            items = self.tie_order.argsort().tolist()
            numbers = counts.long().tolist()
            self.data_struct.set("data.count_items", {item: numbers[item] for item in items if numbers[item]})

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect what the metrics need from one batch of scores [B, I]."""
        need = self.register.need
        device = scores_tensor.device
        if need("rec.items") or need("rec.topk"):
            top = top_items(scores_tensor, max(self.topk), self.tie_order)
        if need("rec.items"):
            self._add("rec.items", top)
        if need("rec.topk"):
            self._add("rec.topk", hit_matrix(top, positive_u.to(device), positive_i.to(device)))
        if need("rec.meanrank"):
            u, i = positive_u.to(device), positive_i.to(device)
            ranks = target_ranks(scores_tensor, u, i).to(torch.float32)
            total = torch.zeros(len(scores_tensor), device=device).index_add_(0, u, ranks)
            candidates = (scores_tensor > -torch.inf).sum(1)
            self._add("rec.meanrank", torch.stack([total, candidates, torch.bincount(u, minlength=len(total))], dim=1))
        if need("rec.score"):
            self._add("rec.score", scores_tensor)
        if need("data.label"):
            self._add("data.label", interaction[self.config["LABEL_FIELD"]])

    def _add(self, name: str, part: torch.Tensor) -> None:
        self._parts.setdefault(name, []).append(part.cpu())

    def get_data_struct(self):
        """All that was collected since the last call."""
        struct = DataStruct()
        for name, value in self.data_struct._data_dict.items():
            struct.set(name, value)
        for name, parts in self._parts.items():
            struct.set(name, torch.cat(parts))
        self._parts = {}
        return struct


class TopKMetrics:
    """Those of the run's metrics that read nothing but top-k hits, on rows of hits that are given or collected.

    Args:
        config: the run's.
        topk: cut-offs, if not the run's; those that the number of candidates makes trivial are left out.
        candidates: how many items or scenes are ranked.
        tie_order: [candidates + 1] which of equal scores comes first, see `ties`; for `add`.
    """

    def __init__(
        self,
        config,
        topk: list[int] | None = None,
        candidates: int | None = None,
        tie_order: torch.Tensor | None = None,
    ):
        names = [name for name in config["metrics"] if metric_information[name.lower()] == ["rec.topk"]]
        self.metrics = [metrics_dict[name.lower()](config) for name in names]
        self.topk = [k for k in topk or config["topk"] if candidates is None or k < candidates] or [1]
        for metric in self.metrics:
            metric.topk = self.topk
        self._tie_order = tie_order
        self._parts: list[torch.Tensor] = []

    def add(self, scores: torch.Tensor, positive_u: torch.Tensor, positive_i: torch.Tensor) -> None:
        """One batch of scores [B, candidates + 1], column 0 padding; positives as in `hit_matrix`."""
        assert self._tie_order is not None
        values, ids = top_scored(scores[:, 1:], max(self.topk), self._tie_order[1:])
        top = (ids + 1).masked_fill(values <= NOT_FOUND, 0)
        self._parts.append(hit_matrix(top, positive_u.to(top.device), positive_i.to(top.device)).cpu())

    def result(self, task: str, decimals: int | None = None) -> dict[str, float]:
        """The metrics of all rows added that have a positive, as those of one of EXTRA_TASKS; rounded as the run says,
        or to so many decimals."""
        rows = torch.cat(self._parts) if self._parts else torch.zeros(0, 1)
        with contextlib.ExitStack() as stack:
            if decimals is not None:
                for metric in self.metrics:
                    stack.enter_context(with_decimals(metric, decimals))
            return {f"{task}_{name}": value for name, value in self.metrics_of_hits(rows[rows[:, -1] > 0]).items()}

    def metrics_of_hits(self, rows: torch.Tensor) -> dict[str, float]:
        """The metrics of rows of hits, [B, k + 1] as from `hit_matrix`; none without rows."""
        if not len(rows):
            return {}
        struct = DataStruct()
        struct.set("rec.topk", rows)
        return {key: float(value) for metric in self.metrics for key, value in metric.calculate_metric(struct).items()}


@contextlib.contextmanager
def with_decimals(metric, decimals: int) -> Iterator[None]:
    """A metric of RecBole's that rounds to so many decimals meanwhile."""
    before = getattr(metric, "decimal_place", None)  # one of the user's own may have none
    metric.decimal_place = decimals
    try:
        yield
    finally:
        metric.decimal_place = before
