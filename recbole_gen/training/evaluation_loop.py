"""The half of the trainer that evaluates: scores of the rows of a loader, and what is measured on them."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct
from recbole.trainer import Trainer as RecBoleTrainer
from recbole.utils import EvaluatorType, WandbLogger, init_seed
from tqdm import tqdm

from recbole_gen import checkpoint, compat, distributed
from recbole_gen.data.loaders import HeldOutSetLoader
from recbole_gen.data.rows import training_item_counts
from recbole_gen.errors import UserError
from recbole_gen.evaluation.diagnostics import Diagnostics
from recbole_gen.evaluation.ranking import TopKCollector, TopKMetrics, distinct_positives, with_decimals
from recbole_gen.evaluation.ties import tie_order
from recbole_gen.model.layers import FUTURE
from recbole_gen.training.divergence import describe_bad_scores

RETURN_MEMORY_BYTES = 1 << 29
"""Bytes of scores after which an evaluation on the CPU returns freed memory: the few numbers that stay of each batch
cut up what its scores leave behind, where the next ones do not fit, and malloc would take more and more."""

EXACT_DECIMALS = 15
"""Decimals of the validation score that decides which epoch is the best; reported are `metric_decimal_place`."""


@dataclass(frozen=True)
class _ExtraTask:
    """One of evaluation.EXTRA_TASKS: its metrics, and the batch's column of positives, the next first."""

    name: str
    metrics: TopKMetrics
    column: str
    ranks: str = "items"
    next_only: bool = False


class EvaluationLoop(RecBoleTrainer):
    """Scores a model on the rows of a loader.

    Attributes:
        vocabulary: field -> tokens of users and items in the order of their ids; empty before `fit`.
        scoring: rows that the last `evaluate` has scored, and the seconds that took: the model's own work, without
            reading rows and computing metrics.
        valid_score: the `valid_metric` of the last `evaluate`, as it was before it was rounded.
    """

    def __init__(self, config, model):
        # Not RecBole's own __init__: that opens log files and TensorBoard folders in places of its own.
        self.config, self.model, self.device = config, model, config["device"]
        self.logger = getLogger()
        self.wandblogger = WandbLogger(SimpleNamespace(log_wandb=False))
        self.saved_model_file = str(Path(config["checkpoint_dir"]) / "best.pth")
        self.vocabulary: dict[str, list[str]] = {}
        self.eval_type, self.test_batch_size = config["eval_type"], config["eval_batch_size"]
        self.eval_collector, self.evaluator = TopKCollector(config), Evaluator(config)
        self.item_tensor = self.tot_item_num = None
        self.scoring = {"rows": 0, "seconds": 0.0}
        self.valid_score: float | None = None
        self._tie_orders: dict[str, torch.Tensor] = {}

    def tie_order(self, dataset, field: str) -> torch.Tensor:
        """The permutation of the tokens of a field that decides between equal scores, [n], see `evaluation.ties`."""
        if field not in self._tie_orders:
            order = tie_order(dataset.field2id_token[field], self.config["seed"])
            self._tie_orders[field] = order.to(self.device)
        return self._tie_orders[field]

    def _collect_training_data(self, train_data) -> None:
        """What metrics read of the training part."""
        data = train_data._dataset
        self.eval_collector.data_collect(train_data)
        self.eval_collector.tie_order = self.tie_order(data, data.iid_field)
        self.eval_collector.set_training_counts(training_item_counts(data))

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False, diagnostics=None):
        """Metrics on the rows of a loader, with the weights of `best.pth` if ``load_best_model``.

        Evaluating twice gives the same numbers, and evaluation leaves the global random generators as they were.
        ``diagnostics`` is a `Diagnostics` to fill on the way, or None. Returns metric -> value.
        """
        if not eval_data:
            return None
        if not distributed.is_main_process():
            return self._take_result(distributed.broadcast_object(None, self.device))
        try:
            if load_best_model:
                path = Path(model_file or self.saved_model_file)
                content = checkpoint.load(path, self.device)
                checkpoint.require_match(path, content, self.config["model"], self.vocabulary)
                checkpoint.load_weights(path, content, self.model)
                self.logger.info(f"Evaluating the weights in {path}")
            with _seeded_for_evaluation(self.config):
                result, score = self._score_and_measure(eval_data, show_progress, diagnostics)
        except UserError as error:
            distributed.broadcast_object({"error": str(error)}, self.device)
            raise
        return self._take_result(distributed.broadcast_object({"result": result, "score": score}, self.device))

    def _take_result(self, agreed: dict[str, Any]) -> dict[str, float]:
        if "error" in agreed:
            raise UserError(agreed["error"])
        self.valid_score = agreed["score"]
        return agreed["result"]

    def _score_and_measure(self, eval_data, show_progress: bool, diagnostics: Diagnostics | None):
        self.model.eval()
        full = isinstance(eval_data, FullSortEvalDataLoader)
        score = self._full_sort_batch_eval if full else self._neg_sample_batch_eval
        if self.config["eval_type"] == EvaluatorType.RANKING:
            self.tot_item_num = eval_data._dataset.item_num
            if full and self.item_tensor is None:
                self.item_tensor = eval_data._dataset.get_item_feature().to(self.device)
            self.eval_collector.tie_order = self.tie_order(eval_data._dataset, self.config["ITEM_ID_FIELD"])
        tasks = self._extra_tasks(eval_data) if full else []
        has_scenes = any(task.ranks == "scenes" for task in tasks)
        self.scoring = {"rows": 0, "seconds": 0.0}
        scored = 0  # bytes since freed memory was returned
        for batch in self._progress_bar(eval_data, "Evaluate   ", show_progress):
            started = time.perf_counter()
            interaction, scores, positive_u, positive_i = score(batch)
            self._refuse_nan(scores)  # reads the scores, so that a GPU has ended its work
            self.scoring["seconds"] += time.perf_counter() - started
            self.scoring["rows"] += len(scores)
            if full and self.config["mask_history"]:
                self._mask_history(interaction, scores)
            self.eval_collector.eval_batch_collect(scores, interaction, positive_u, positive_i)
            ranked = {"items": scores}
            if has_scenes:
                ranked["scenes"] = self._scene_scores(interaction)
            for task in tasks:
                futures = interaction[task.column][:, : 1 if task.next_only else None]
                task.metrics.add(ranked[task.ranks], *distinct_positives(futures))
            if diagnostics is not None:
                latent = getattr(self.model, "latent", None)
                latent = latent and latent(interaction.to(self.device))
                diagnostics.add(
                    scores, interaction, positive_u, positive_i, latent, _seen_in_sets(eval_data, diagnostics)
                )
            scored += scores.nbytes
            if scored > RETURN_MEMORY_BYTES and self.device.type == "cpu":
                compat.return_freed_memory()
                scored = 0
        struct = self.eval_collector.get_data_struct()
        result = self.evaluator.evaluate(struct)
        for task in tasks:
            result.update(task.metrics.result(task.name))
        self.wandblogger.log_eval_metrics(result, head="eval")
        return {name: float(value) for name, value in result.items()}, self._exact_valid_score(struct, tasks)

    def _neg_sample_batch_eval(self, batched_data):
        """(rows, scores, row of each positive, item of each positive); scores [B, I] are -inf but for the candidates,
        or, of an evaluation of values, [P].

        RecBole's own matrix is float32, and takes no scores of a model that gives float64.
        """
        interaction, row, positive_u, positive_i = batched_data
        if len(interaction) > self.test_batch_size:
            found = self._spilt_predict(interaction, len(interaction))
        else:
            found = self.model.predict(interaction.to(self.device))
        if self.config["eval_type"] != EvaluatorType.RANKING:
            return interaction, found, positive_u, positive_i
        users, items = int(positive_u[-1]) + 1, int(self.tot_item_num or 0)
        scores = torch.full((users, items), -torch.inf, dtype=found.dtype, device=self.device)
        scores[row, interaction[self.config["ITEM_ID_FIELD"]]] = found
        return interaction, scores, positive_u, positive_i

    def _exact_valid_score(self, struct: DataStruct, tasks: list[_ExtraTask]) -> float | None:
        """The `valid_metric` to more decimals than are reported, of what has been collected; None if it has no value.

        Differences that rounding hides decide which epoch is the best.
        """
        name = self.config["valid_metric"].lower()
        prefix = name.rpartition("_")[0]
        task = next((task for task in tasks if task.name == prefix), None)
        if task is not None:
            values = task.metrics.result(prefix, decimals=EXACT_DECIMALS)
        else:
            chosen = self.evaluator.metric_class.get(name.partition("@")[0])
            if chosen is None:
                return None
            with with_decimals(chosen, EXACT_DECIMALS):
                values = chosen.calculate_metric(struct)
        return float(values[name]) if name in values else None

    def _extra_tasks(self, eval_data) -> list[_ExtraTask]:
        """What is scored beside the run's own metrics: all later items, the next scene, all later scenes."""
        config, data = self.config, eval_data._dataset
        items, scenes = (FUTURE + config[key] + config["LIST_SUFFIX"] for key in ("ITEM_ID_FIELD", "SCENE_FIELD"))
        sets = isinstance(eval_data, HeldOutSetLoader) and config["positives"] == "both"
        tasks = []
        if sets:
            order = self.tie_order(data, config["ITEM_ID_FIELD"])
            tasks.append(_ExtraTask("period", TopKMetrics(config, tie_order=order), items))
        if hasattr(self.model, "full_sort_predict_scene"):
            topk, scene = config["scene_topk"], config["SCENE_FIELD"]
            order = self.tie_order(data, scene)
            ranked = topk if isinstance(topk, list) else [topk], data.num(scene) - 1, order
            tasks.append(_ExtraTask("scene", TopKMetrics(config, *ranked), scenes, ranks="scenes", next_only=True))
            if sets:
                tasks.append(_ExtraTask("scene_period", TopKMetrics(config, *ranked), scenes, ranks="scenes"))
        return tasks

    def _scene_scores(self, interaction) -> torch.Tensor:
        """[B, n_scenes]. Raises UserError for scores that are not numbers."""
        scores = self.model.full_sort_predict_scene(interaction.to(self.device))
        self._refuse_nan(scores)
        return scores

    def _refuse_nan(self, scores: torch.Tensor) -> None:
        if torch.isnan(scores).any():
            raise UserError(describe_bad_scores(self.config, self.model))

    def _mask_history(self, interaction, scores: torch.Tensor) -> None:
        """Take the items that the model has read out of the ranking (a repeated target can then not be hit)."""
        field = self.config["ITEM_ID_FIELD"] + self.config["LIST_SUFFIX"]
        if field in interaction:
            scores.scatter_(1, interaction[field].to(scores.device), -torch.inf)

    def _progress_bar(self, data, title: str, show: bool):
        """A progress bar, on a terminal only."""
        return tqdm(
            data,
            total=len(data),
            ncols=100,
            desc=title,
            leave=False,
            disable=None if show and distributed.is_main_process() else True,
        )


def _seen_in_sets(eval_data, diagnostics: Diagnostics) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Row and item of all that the users of the next batch had before, where `mask_history` would mean all of it."""
    if not isinstance(eval_data, HeldOutSetLoader) or not diagnostics.ranks_history:
        return None
    return eval_data.seen_before(diagnostics.rows)


@contextlib.contextmanager
def _seeded_for_evaluation(config):
    """Seed the global generators for the duration, then put them back: evaluation does not disturb training."""
    states = checkpoint.random_states()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    init_seed(config["seed"], config["reproducibility"])
    try:
        yield
    finally:
        checkpoint.restore_random_states(states)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
