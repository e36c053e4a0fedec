"""Hits and ranks without B x I one-hots, and the diagnostics that keep a generative recommender honest.

A score matrix has one row a user (or history) and one column an item; column 0 is padding. Excluded items score -inf.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metric_information, metrics_dict

from recbole_gen.model.layers import FUTURE, distinct

TASKS = {"period": "all later items", "scene": "next scene", "scene_period": "all later scenes"}
"""What is measured beside the run's own metrics, by the prefix of the names, as in scene_recall@5."""
LIST_LENGTH = 20
"""Length of the recommendation lists that the diagnostics compare."""


def top_items(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The best k columns of each row of scores [B, I]; 0 where nothing is left but what is excluded."""
    top = scores.topk(k, dim=-1)
    return top.indices.masked_fill(top.values == -torch.inf, 0)


def hits(top: torch.Tensor, positive_u: torch.Tensor, positive_i: torch.Tensor) -> torch.Tensor:
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
    ranks = []
    for u, i in zip(positive_u.split(1024), positive_i.split(1024), strict=True):
        own = scores[u, i].unsqueeze(1)
        greater, equal = (scores[u] > own).sum(1), (scores[u] == own).sum(1)
        ranks.append(greater + (equal + 1) / 2)
    return torch.cat(ranks) if ranks else torch.zeros(0)


class LeanCollector(Collector):
    """RecBole's collector with the same results: hits by comparison instead of a B x I one-hot, parts joined once."""

    def __init__(self, config):
        super().__init__(config)
        self._parts: dict[str, list[torch.Tensor]] = {}

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect what the metrics need from one batch of scores [B, I]."""
        need = self.register.need
        device = scores_tensor.device
        if need("rec.items"):
            self._add("rec.items", scores_tensor.topk(max(self.topk), dim=-1).indices)
        if need("rec.topk"):
            top = top_items(scores_tensor, max(self.topk))
            self._add("rec.topk", hits(top, positive_u.to(device), positive_i.to(device)))
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


class TopK:
    """Those of the run's metrics that read nothing but top-k hits, on rows of hits that are given or collected.

    Args:
        config: the run's.
        topk: cut-offs, if not the run's; those that the number of candidates makes trivial are left out.
        candidates: how many items or scenes are ranked.
    """

    def __init__(self, config, topk: list[int] | None = None, candidates: int | None = None):
        names = [name for name in config["metrics"] if metric_information[name.lower()] == ["rec.topk"]]
        self.metrics = [metrics_dict[name.lower()](config) for name in names]
        self.topk = [k for k in topk or config["topk"] if candidates is None or k < candidates] or [1]
        for metric in self.metrics:
            metric.topk = self.topk
        self._parts: list[torch.Tensor] = []

    def add(self, scores: torch.Tensor, positive_u: torch.Tensor, positive_i: torch.Tensor) -> None:
        """One batch of scores [B, candidates + 1], column 0 padding; positives as in `hits`."""
        top = scores[:, 1:].topk(max(self.topk)).indices + 1
        self._parts.append(hits(top, positive_u.to(top.device), positive_i.to(top.device)).cpu())

    def result(self, task: str) -> dict[str, float]:
        """The metrics of all rows added that have a positive, as those of one of TASKS."""
        rows = torch.cat(self._parts) if self._parts else torch.zeros(0, 1)
        return {f"{task}_{name}": value for name, value in self.measure(rows[rows[:, -1] > 0]).items()}

    def measure(self, rows: torch.Tensor) -> dict[str, float]:
        """The metrics of rows of hits, [B, k + 1] as from `hits`; none without rows."""
        if not len(rows):
            return {}
        struct = DataStruct()
        struct.set("rec.topk", rows)
        return {key: float(value) for metric in self.metrics for key, value in metric.calculate_metric(struct).items()}


def length_groups(sizes: torch.Tensor) -> dict[str, torch.Tensor]:
    """The paper's user groups by history length: low, medium and high third of the rows, [n] bool each.

    DSPnet section 4.3 does not say where it cuts; here equal lengths stay together, so thirds are not exact.
    """
    low, high = np.quantile(sizes.numpy(), [1 / 3, 2 / 3], method="lower")
    return {"low": sizes <= low, "medium": (sizes > low) & (sizes <= high), "high": sizes > high}


def latent_statistics(latents: torch.Tensor) -> dict[str, float]:
    """Health of a latent space, [n, d]: ACVAE's eq. 14 (corr), the mean spread of a dimension (std), and its mean size.

    corr is the sum of the squared correlations of all ordered pairs of different dimensions, 0 to d (d - 1).
    """
    values = latents.double()
    centred = values - values.mean(0)
    unit = centred / centred.norm(dim=0).clamp(min=1e-30)
    correlations = unit.T @ unit
    return {
        "corr": float(correlations.pow(2).sum() - correlations.diagonal().pow(2).sum()),
        "std": float(values.std(0).mean()),
        "mean_size": float(values.mean(0).abs().mean()),
    }


class Diagnostics:
    """What a metric alone does not show; one batch of test scores at a time.

    Args:
        config: the run's.
        train_counts: [n_items], how often each item occurs in training; Pop ranks by it, zero means never trained.
    """

    def __init__(self, config, train_counts: torch.Tensor):
        self.measure = TopK(config).measure
        self.k = max(config["topk"])
        self.list_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self.fields = (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"])
        self.length_field = config["ITEM_LIST_LENGTH_FIELD"]
        scenes = config["SCENE_FIELD"] + config["LIST_SUFFIX"]
        self.scene_fields = (FUTURE + scenes, scenes)
        self.counts = train_counts
        self.trained = train_counts > 0
        self.trained[0] = False
        self.list_counts = torch.zeros(len(train_counts), dtype=torch.int64)
        self.rows = 0
        self._parts: dict[str, list[torch.Tensor]] = {}

    def add(
        self,
        scores: torch.Tensor,
        interaction,
        positive_u: torch.Tensor,
        positive_i: torch.Tensor,
        latent: torch.Tensor | None = None,
    ) -> None:
        """One batch: scores [B, I] with -inf for what may not be recommended; positives as in `hits`; latent [B, d]."""
        if latent is not None:
            self._add("latent", latent)
        device = scores.device
        u, i = positive_u.to(device), positive_i.to(device)
        excluded = scores == -torch.inf
        pop = self.counts.to(device).expand_as(scores).masked_fill(excluded, -torch.inf)
        untrained = ~self.trained.to(device)
        known = ~untrained[i]
        best = top_items(scores, self.k)
        self._add("model", hits(best, u, i))
        found = best[u] == i.unsqueeze(1)
        self._add("place", torch.where(found.any(1), found.int().argmax(1) + 1, 0))
        self._add("pop", hits(top_items(pop, self.k), u, i))
        for name, values in (("model_trained", scores), ("pop_trained", pop)):
            top = top_items(values.masked_fill(untrained, -torch.inf), self.k)
            self._add(name, hits(top, u[known], i[known]))
        if self.scene_fields[0] in interaction:
            next_scene, scenes = (interaction[field].to(device) for field in self.scene_fields)
            last = interaction[self.length_field].to(device) - 1
            self._add("scene", torch.stack([next_scene[:, 0], scenes.gather(1, last.unsqueeze(1)).squeeze(1)], dim=1))
        top = scores.topk(min(LIST_LENGTH, scores.shape[1] - 1)).indices
        self.list_counts += torch.bincount(top.flatten().cpu(), minlength=len(self.list_counts))
        self._add("row", self.rows + u)
        self.rows += len(scores)
        self._add("rank", target_ranks(scores, u, i))
        self._add("user", interaction[self.fields[0]].to(device)[u])
        self._add("target", i)
        if self.list_field in interaction:
            length = (interaction[self.list_field] != 0).sum(1)
            self._add("has_history", length > 0)
            self._add("history_length", length.to(device)[u])

    def _add(self, name: str, part: torch.Tensor) -> None:
        self._parts.setdefault(name, []).append(part.cpu())

    def result(self, model: torch.nn.Module, sizes: torch.Tensor | None = None) -> dict[str, Any]:
        """Everything collected, as plain numbers; sizes: [rows] interactions before each row, to group them by."""
        parts = {name: torch.cat(values) for name, values in self._parts.items()}
        rows = parts["model_trained"][:, -1] > 0  # rows with a target that training has seen
        out: dict[str, Any] = {
            "rows": len(rows),
            "pop": self.measure(parts["pop"]),
            "trained_items_only": {
                "rows": int(rows.sum()),
                "model": self.measure(parts["model_trained"][rows]),
                "pop": self.measure(parts["pop_trained"][rows]),
            },
        }
        if "has_history" in parts:
            for name, chosen in (("with_history", parts["has_history"]), ("without_history", ~parts["has_history"])):
                if chosen.any():
                    out[name] = {"rows": int(chosen.sum()), **self.measure(parts["model"][chosen])}
        if sizes is not None:
            out["groups"] = {
                name: {
                    "rows": int(chosen.sum()),
                    "history": [int(sizes[chosen].min()), int(sizes[chosen].max())],
                    **self.measure(parts["model"][chosen]),
                }
                for name, chosen in length_groups(sizes).items()
                if chosen.any()
            }
        if "latent" in parts:
            out["latent"] = latent_statistics(parts["latent"])
        if "scene" in parts:
            known = parts["scene"][parts["scene"][:, 0] > 0]
            if len(known):
                out["scene"] = {
                    "rows": len(known),
                    "last_again": float((known[:, 0] == known[:, 1]).double().mean()),
                    "most_common": float(torch.bincount(known[:, 0]).max()) / len(known),
                }
        untrained_hits = ~self.trained[parts["target"][parts["rank"] <= LIST_LENGTH]]
        n, c = len(rows), self.list_counts.double()
        shown = float(c.sum())
        out["lists"] = {
            "length": round(shown / n),
            "distinct_items": int((c > 0).sum()),
            "mean_overlap": float((c * (c - 1)).sum() / (n * (n - 1))) if n > 1 else None,
            "untrained_share": float(c[~self.trained].sum()) / shown,
            "untrained_items": int((~self.trained[1:]).sum()),
            "untrained_hit_share": float(untrained_hits.double().mean()) if len(untrained_hits) else None,
        }
        table = getattr(model, "item_embedding", None)
        if isinstance(table, torch.nn.Embedding) and len(table.weight) >= len(self.trained):
            out["item_table"] = item_table(table.weight.detach().cpu()[: len(self.trained)], self.trained)
        return out

    def ranks(self, dataset) -> pd.DataFrame:
        """One line a target: number of its test row, user and item (tokens), its rank among all items, its place among
        the largest `topk` as the metrics have counted it (0: not there), and the length of the history that was read.

        Equal scores share the mean of their ranks, but have places one after the other.
        """
        user_field, item_field = self.fields
        columns = {
            "row": torch.cat(self._parts["row"]).numpy(),
            user_field: dataset.id2token(user_field, torch.cat(self._parts["user"]).numpy()),
            item_field: dataset.id2token(item_field, torch.cat(self._parts["target"]).numpy()),
            "rank": torch.cat(self._parts["rank"]).numpy(),
            "place": torch.cat(self._parts["place"]).numpy(),
        }
        if "history_length" in self._parts:
            columns["history_length"] = torch.cat(self._parts["history_length"]).numpy()
        return pd.DataFrame(columns)


def item_table(table: torch.Tensor, trained: torch.Tensor) -> dict[str, float]:
    """Spread of item vectors [n_items, d]: a collapsed table has small vectors that all point the same way.

    rms: root mean square of an entry; mean_cosine: over all pairs of items; effective_rank: exponential of the entropy
    of the principal variances (1 to d); norm_trained, norm_untrained: mean length of a vector.
    """
    real = table[1:].double()
    norms = real.norm(dim=1)
    n = len(real)
    unit = real / norms.clamp(min=1e-12).unsqueeze(1)
    variances = torch.linalg.eigvalsh(torch.cov(real.T)).clamp(min=0)
    share = variances / variances.sum().clamp(min=1e-30)
    out = {
        "rms": float(real.pow(2).mean().sqrt()),
        "mean_cosine": float((unit.sum(0).pow(2).sum() - n) / (n * (n - 1))),
        "effective_rank": float(torch.exp(-(share * share.clamp(min=1e-30).log()).sum())),
        "norm_trained": float(norms[trained[1:]].mean()),
    }
    if not trained[1:].all():
        out["norm_untrained"] = float(norms[~trained[1:]].mean())
    return out
