"""What keeps a recommender honest: beside Pop and Transitions, without untrained or seen items, by length of history.

A score matrix has one row a user (or history) and one column an item; column 0 is padding. Excluded items score -inf.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from recbole_gen.evaluation.item_vectors import item_vectors
from recbole_gen.evaluation.ranking import TopKMetrics, count_scores_beside, hit_matrix, top_items
from recbole_gen.model.layers import FUTURE, NOT_FOUND
from recbole_gen.model.transitions import TransitionCounts

LIST_LENGTH = 20
"""Length of the recommendation lists that the diagnostics compare."""
COLD_ROWS = 10
"""Rows with cold targets from which on they have a line of their own; the metrics of fewer say nothing."""


def history_length_groups(sizes: torch.Tensor) -> dict[str, torch.Tensor]:
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


def item_table_statistics(table: torch.Tensor, trained: torch.Tensor) -> dict[str, float]:
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


def _exact_type(largest: int) -> torch.dtype:
    """The smaller type of those that hold every whole number up to ``largest``."""
    return torch.float32 if largest < 2**24 else torch.float64


def _places_from_last(counts: torch.Tensor, tie_order: torch.Tensor) -> torch.Tensor:
    """[I], 0 to I - 1: the place of each item from the last one, by popularity, of equal counts by the order.

    As scores they rank as the counts do, but have no ties, which take long to decide for every row.
    """
    by_order = tie_order.cpu().argsort(descending=True)  # what comes first has the largest score
    ascending = by_order[counts.cpu()[by_order].argsort(stable=True)]
    places = torch.arange(len(counts), dtype=_exact_type(len(counts)))
    return torch.empty_like(places).scatter_(0, ascending, places)


def worth_a_line(cold_targets: dict[str, Any] | None) -> bool:
    """Whether there are enough rows with cold targets for a person to be shown their metrics."""
    return cold_targets is not None and cold_targets["rows"] >= COLD_ROWS


class Diagnostics:
    """What a metric alone does not show; one batch of test scores at a time.

    Args:
        config: the run's.
        train_counts: [n_items], how often each item occurs in training; Pop ranks by it, zero means never trained.
        tie_order: [n_items] which of equal scores comes first, see `ties`.
        transitions: what has followed what in the training rows; None for a model that reads no histories.
    """

    def __init__(
        self,
        config,
        train_counts: torch.Tensor,
        tie_order: torch.Tensor,
        transitions: TransitionCounts | None = None,
    ):
        self.metrics_of_hits = TopKMetrics(config).metrics_of_hits
        self.k = max(config["topk"])
        self.list_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self.fields = (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"])
        self.length_field = config["ITEM_LIST_LENGTH_FIELD"]
        scenes = config["SCENE_FIELD"] + config["LIST_SUFFIX"]
        self.scene_fields = (FUTURE + scenes, scenes)
        self.ranks_history = not (config["mask_history"] or config["mask_seen"])
        self.counts, self._tie_order, self._transitions = train_counts, tie_order, transitions
        self._popularity = _places_from_last(train_counts, tie_order)
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
        seen: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        """One batch: scores [B, I], -inf for what is not to be ranked; positives as in `hit_matrix`; latent [B, d].

        seen: row and item, [n] each, of what `mask_history` would take out; None for the histories in the batch.
        """
        if latent is not None:
            self._add("latent", latent)
        device = scores.device
        u, i = positive_u.to(device), positive_i.to(device)
        excluded = scores == -torch.inf
        untrained = ~self.trained.to(device)
        known = ~untrained[i]
        order = self._tie_order.to(device)
        best = top_items(scores, max(self.k, min(LIST_LENGTH, scores.shape[1] - 1)), order)
        top, best = best[:, :LIST_LENGTH], best[:, : self.k]
        hits = hit_matrix(best, u, i)
        self._add("model", hits)
        all_known = bool(known.all())  # as nearly always
        self._add("model_warm", hits if all_known else hit_matrix(best, u[known], i[known]))
        self._add("model_cold", torch.zeros_like(hits) if all_known else hit_matrix(best, u[~known], i[~known]))
        found = best[u] == i.unsqueeze(1)
        self._add("place", torch.where(found.any(1), found.int().argmax(1) + 1, 0))
        trained = top_items(scores.masked_fill(untrained, -torch.inf), self.k, order)
        self._add("model_trained", hit_matrix(trained, u[known], i[known]))
        history = self._history(interaction, seen, device) if self.ranks_history else None
        if history is not None:
            without = scores.index_put(history, scores.new_tensor(-torch.inf))
            self._add("model_unseen", hit_matrix(top_items(without, self.k, order), u, i))
            self._add("in_history", without[u, i] == -torch.inf)
        baselines = {"pop": self._popularity.to(device).repeat(len(scores), 1)}
        if self._transitions is not None:
            baselines["transitions"] = self._transition_scores(self._transitions, interaction, device)
        for name, values in baselines.items():
            values.masked_fill_(excluded, -torch.inf)
            top_all = top_trained = top_items(values, self.k, order)
            if untrained[top_all].any():  # seldom: they are the last of each ranking
                top_trained = top_items(values.masked_fill(untrained, -torch.inf), self.k, order)
            self._add(name, hit_matrix(top_all, u, i))
            self._add(f"{name}_trained", hit_matrix(top_trained, u[known], i[known]))
            if history is not None:
                values[history] = -torch.inf
                self._add(f"{name}_unseen", hit_matrix(top_items(values, self.k, order), u, i))
        if self.scene_fields[0] in interaction:
            next_scene, scenes = (interaction[field].to(device) for field in self.scene_fields)
            last = interaction[self.length_field].to(device) - 1
            self._add("scene", torch.stack([next_scene[:, 0], scenes.gather(1, last.unsqueeze(1)).squeeze(1)], dim=1))
        self.list_counts += torch.bincount(top.flatten().cpu(), minlength=len(self.list_counts))
        self._add("row", self.rows + u)
        self.rows += len(scores)
        greater, equal = count_scores_beside(scores, u, i)
        self._add("rank", greater + (equal + 1) / 2)
        self._add("tied", (equal > 1) & (scores[u, i] > NOT_FOUND))
        self._add("user", interaction[self.fields[0]].to(device)[u])
        self._add("target", i)
        if self.list_field in interaction:
            length = (interaction[self.list_field] != 0).sum(1)
            self._add("has_history", length > 0)
            self._add("history_length", length.to(device)[u])

    def _history(self, interaction, seen, device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Row and item of what `mask_history` would take out of the batch's rankings; None if no histories are read."""
        if seen is None and self.list_field in interaction:
            items = interaction[self.list_field]
            rows = torch.arange(len(items)).unsqueeze(1).expand_as(items)
            seen = rows.flatten(), items.flatten()
        return None if seen is None else (seen[0].to(device), seen[1].to(device))

    def _transition_scores(self, transitions: TransitionCounts, interaction, device: torch.device) -> torch.Tensor:
        """[B, I], without ties: by how often an item has followed the last one of the history, then by popularity."""
        last = interaction[self.length_field].to(device) - 1
        items = interaction[self.list_field].to(device).gather(1, last.unsqueeze(1)).squeeze(1)
        n_items = len(self.counts)
        largest = n_items * (1 + int(transitions.times.max())) if len(transitions.times) else n_items
        scores = self._popularity.to(device, _exact_type(largest)).repeat(len(items), 1)
        transitions.add_followers(scores, items, n_items)
        return scores

    def _add(self, name: str, part: torch.Tensor) -> None:
        self._parts.setdefault(name, []).append(part.cpu())

    def result(self, model: torch.nn.Module, sizes: torch.Tensor | None = None) -> dict[str, Any]:
        """Everything collected, as plain numbers; sizes: [rows] interactions before each row, to group them by."""
        parts = {name: torch.cat(values) for name, values in self._parts.items()}
        rows = parts["model_trained"][:, -1] > 0  # rows with a target that training has seen
        out: dict[str, Any] = {
            "rows": len(rows),
            "tied_rows": len(parts["row"][parts["tied"]].unique()),
            "pop": self.metrics_of_hits(parts["pop"]),
            "trained_items_only": {
                "rows": int(rows.sum()),
                "model": self.metrics_of_hits(parts["model_trained"][rows]),
                "pop": self.metrics_of_hits(parts["pop_trained"][rows]),
            },
        }
        if "model_unseen" in parts:
            beside = [name for name in ("model", "pop", "transitions") if name in parts]
            out["history_not_ranked"] = {
                "targets": len(parts["in_history"]),
                "targets_in_history": int(parts["in_history"].sum()),  # which can then not be hit
                **{name: self.metrics_of_hits(parts[f"{name}_unseen"]) for name in beside},
            }
        if "transitions" in parts:
            out["transitions"] = self.metrics_of_hits(parts["transitions"])
            out["trained_items_only"]["transitions"] = self.metrics_of_hits(parts["transitions_trained"][rows])
        if (parts["model_cold"][:, -1] > 0).any():
            for name in ("warm", "cold"):
                hits = parts[f"model_{name}"]
                chosen = hits[:, -1] > 0
                if chosen.any():
                    out[f"{name}_targets"] = {"rows": int(chosen.sum()), **self.metrics_of_hits(hits[chosen])}
        if "has_history" in parts:
            for name, chosen in (("with_history", parts["has_history"]), ("without_history", ~parts["has_history"])):
                if chosen.any():
                    out[name] = {"rows": int(chosen.sum()), **self.metrics_of_hits(parts["model"][chosen])}
        if sizes is not None:
            out["groups"] = {
                name: {
                    "rows": int(chosen.sum()),
                    "history": [int(sizes[chosen].min()), int(sizes[chosen].max())],
                    **self.metrics_of_hits(parts["model"][chosen]),
                }
                for name, chosen in history_length_groups(sizes).items()
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
        c[0] = 0  # stands where nothing was left to recommend
        shown = max(1.0, float(c.sum()))  # of nothing that is shown, nothing is of untrained items
        out["lists"] = {
            "length": round(shown / n),
            "distinct_items": int((c > 0).sum()),
            "mean_overlap": float((c * (c - 1)).sum() / (n * (n - 1))) if n > 1 else None,
            "untrained_share": float(c[~self.trained].sum()) / shown,
            "untrained_items": int((~self.trained[1:]).sum()),
            "untrained_hit_share": float(untrained_hits.double().mean()) if len(untrained_hits) else None,
        }
        table = item_vectors(model, len(self.trained))
        if table is not None:
            out["item_table"] = item_table_statistics(table.cpu(), self.trained)
        return out

    def rank_table(self, dataset) -> pd.DataFrame:
        """One line a target: number of its test row, user and item (tokens), its rank among all items, its place among
        the largest `topk` as the metrics have counted it (0: not there), and the length of the history that was read.

        Equal scores share the mean of their ranks, but have places one after the other, as `ties` says.
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
