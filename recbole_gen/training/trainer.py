"""One trainer for our models and RecBole's: exact resume, best and last checkpoint, one device sync every few steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader, KnowledgeBasedDataLoader
from recbole.evaluator import Evaluator
from recbole.trainer import Trainer as RecBoleTrainer
from recbole.utils import (
    EvaluatorType,
    WandbLogger,
    calculate_valid_score,
    dict2str,
    early_stopping,
    get_trainer,
    init_seed,
    set_color,
)
from torch.nn.utils.clip_grad import clip_grad_norm_
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from recbole_gen import checkpoint, compat, distributed
from recbole_gen.data.loaders import SetLoader
from recbole_gen.data.rows import training_counts
from recbole_gen.errors import UserError
from recbole_gen.evaluation.diagnostics import Diagnostics
from recbole_gen.evaluation.ranking import LeanCollector, TopK, distinct_positives
from recbole_gen.model.layers import FUTURE
from recbole_gen.training.optimizers import CompositeOptimizer

LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
CHECK_EVERY = 50
"""Steps between two looks at the loss: each look waits for the device."""
RETURN_EVERY = 1 << 29
"""Bytes of scores after which an evaluation on the CPU returns freed memory: the few numbers that stay of each batch
cut up what its scores leave behind, where the next ones do not fit, and malloc would take more and more."""


class NonFiniteLoss(UserError):
    """A loss term became NaN or infinite."""


class _NoTensorBoard:
    """Stands in for a SummaryWriter, and writes nothing."""

    def _nothing(self, *_):
        pass

    add_scalar = add_hparams = flush = close = _nothing


@dataclass(frozen=True)
class _Task:
    """One of evaluation.TASKS: its metrics, and the batch's column of positives, the next first."""

    name: str
    metrics: TopK
    column: str
    ranks: str = "items"
    next_only: bool = False


@dataclass(frozen=True)
class Epoch:
    """What is known when an epoch ends: ``number`` from 1, scores None as long as there is none of validation."""

    number: int
    train_loss: float
    best_epoch: int
    best_valid_score: float | None
    valid_score: float | None
    valid_result: dict[str, float]


class Trainer(RecBoleTrainer):
    """Trains, validates and tests one model; all that it writes goes to ``config["checkpoint_dir"]``, the run's folder.

    A model may return its loss as a tuple of terms, and name them in ``loss_names``; a model that draws random numbers
    in evaluation draws them from its ``eval_generator``, which is seeded here for every evaluation. A model with
    adversaries declares its optimisers in ``optimizer_spec()``, name -> (parameters, settings), in the order of their
    steps; settings are a mapping of learner, learning_rate and weight_decay, by custom in the key NAME_optimizer, or
    None for those of the run. ``active_optimizers(step)``, if there is one, says which of them take training step
    ``step`` (None: all).

    With several processes (`recbole_gen.distributed`) every one trains on its share of each batch; the first evaluates
    and writes.

    Attributes:
        start_epoch: first epoch to train (counted from 0); more than 0 after `resume`.
        best_epoch: epoch of the best validation score, -1 before the first.
        steps: training steps so far, over all epochs.
        train_seconds: what all epochs have taken, validation included, also those before a resume.
        on_epoch: called after every epoch, once its checkpoints are written, with an `Epoch`; None for nothing.
        scoring: rows that the last `evaluate` has scored, and the seconds that took: the model's own work, without
            reading rows and computing metrics.
    """

    on_epoch: Callable[[Epoch], None] | None = None

    def __init__(self, config, model):
        # Not RecBole's own __init__: that opens log files and TensorBoard folders in places of its own.
        self.config, self.model = config, model
        self.logger = getLogger()
        self.run_dir = Path(config["checkpoint_dir"])
        self.run_dir.mkdir(parents=True, exist_ok=True)
        writes = config["tensorboard"] and distributed.is_main_process()
        self.tensorboard = SummaryWriter(str(self.run_dir)) if writes else _NoTensorBoard()
        try:
            self.wandblogger = WandbLogger(
                config if distributed.is_main_process() else SimpleNamespace(log_wandb=False)
            )
        except ImportError as error:
            raise UserError(f"log_wandb: {error}") from None
        self.learner, self.learning_rate = config["learner"], config["learning_rate"]
        _check_learner("learner", self.learner)
        self.weight_decay, self.clip_grad_norm = config["weight_decay"], config["clip_grad_norm"]
        self.epochs, self.stopping_step = config["epochs"], config["stopping_step"]
        self.eval_step = min(config["eval_step"], self.epochs)
        self.valid_metric, self.valid_metric_bigger = config["valid_metric"].lower(), config["valid_metric_bigger"]
        self.test_batch_size = config["eval_batch_size"]
        self.device, self.checkpoint_dir = config["device"], str(self.run_dir)
        self.gpu_available = self.device.type == "cuda"
        self.enable_amp, self.enable_scaler = config["enable_amp"], self.gpu_available and config["enable_scaler"]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        self.saved_model_file = str(self.run_dir / "best.pth")
        self.start_epoch = self.cur_step = self.steps = 0
        self.train_seconds = 0.0
        self.best_valid_score = -np.inf if self.valid_metric_bigger else np.inf
        self.best_valid_result: dict[str, float] | None = None
        self.best_epoch = -1
        self._last_valid: tuple[int, dict[str, float]] = (-1, {})
        self.scoring = {"rows": 0, "seconds": 0.0}
        self.train_loss_dict: dict[int, float] = {}
        self.optimizer = self._build_optimizer()
        self.eval_type = config["eval_type"]
        self.eval_collector, self.evaluator = LeanCollector(config), Evaluator(config)
        self.item_tensor = self.tot_item_num = None
        self.vocabulary: dict[str, list[str]] = {}
        self.serving: dict[str, Any] = {}
        self._initial = dict(_numbers(model))
        self._resumed: dict[str, Any] | None = None

    def _build_optimizer(self, **kwargs):
        if kwargs or not hasattr(self.model, "optimizer_spec"):
            return super()._build_optimizer(**kwargs)
        spec = self.model.optimizer_spec()
        covered = {id(parameter) for parameters, _ in spec.values() for parameter in parameters}
        left = [name for name, p in self.model.named_parameters() if p.requires_grad and id(p) not in covered]
        if left:
            raise ValueError(f"optimizer_spec() of {type(self.model).__name__} leaves out {', '.join(left)}")
        optimizers = {}
        for name, (parameters, settings) in spec.items():
            own = {} if settings is None else _optimizer_settings(name, settings)
            optimizers[name] = super()._build_optimizer(params=parameters, **own)
        return CompositeOptimizer(optimizers)

    # Training

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Train to ``epochs`` or until the validation score has not risen for ``stopping_step`` evaluations.

        After every epoch `last.pth` holds all that resuming needs, and `best.pth` the best epoch so far.
        Returns the best validation score and result. Raises NonFiniteLoss.
        """
        log = self.logger.info if verbose else self.logger.debug
        self.vocabulary, self.serving = vocabulary_of(train_data._dataset), serving_of(train_data._dataset)
        self.eval_collector.data_collect(train_data)
        if self.config["train_neg_sample_args"].get("dynamic", False):
            train_data.get_model(self.model)
        if self._resumed is not None:
            checkpoint.restore_random_states(self._resumed["random_states"])
            generators = _generators(train_data)
            states = self._resumed["loader_state"].cpu().chunk(len(generators))
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state.clone())  # of a view, torch reads the bytes of its base
            self._resumed = None
        self._check_valid_metric(valid_data)
        distributed.broadcast_tensors([*self.model.parameters(), *self.model.buffers()])
        if saved and self.start_epoch == 0 and self.epochs == 0:
            self._save("best.pth", 0, train_data)

        for epoch in range(self.start_epoch, self.epochs):
            if self.cur_step > self.stopping_step:
                break  # the run that is resumed had stopped early
            started = time.time()
            losses = self._train_epoch(train_data, epoch, show_progress=show_progress)
            self.train_loss_dict[epoch] = float(sum(losses)) if isinstance(losses, tuple) else float(losses)
            log(self._generate_train_loss_output(epoch, started, time.time(), losses))
            self._log_training(epoch, losses)
            improved = valid_data is None or not len(valid_data) or self.eval_step <= 0
            if improved:
                self.best_epoch = epoch
            elif (epoch + 1) % self.eval_step == 0:
                improved = self._validate(epoch, valid_data, log, show_progress)
                if callback_fn:
                    callback_fn(epoch, self.best_valid_score)
            self.train_seconds += time.time() - started
            if saved:
                if improved:
                    self._save("best.pth", epoch + 1, train_data)
                self._save("last.pth", epoch + 1, train_data)
            self.tensorboard.flush()
            if self.on_epoch:
                self.on_epoch(self._epoch(epoch))
            if self.cur_step > self.stopping_step:
                log(f"Finished training, best eval result in epoch {self.best_epoch}")
                break
        return self.best_valid_score, self.best_valid_result

    def _epoch(self, epoch: int) -> Epoch:
        known = float(self.best_valid_score) if self.best_valid_result else None
        number, result = self._last_valid
        if number != epoch:
            return Epoch(epoch + 1, self.train_loss_dict[epoch], self.best_epoch + 1, known, None, {})
        score = float(calculate_valid_score(result, self.valid_metric))
        return Epoch(epoch + 1, self.train_loss_dict[epoch], self.best_epoch + 1, known, score, result)

    def _check_valid_metric(self, valid_data) -> None:
        """Which cut-offs of scenes there are is known only now. Raises UserError."""
        tasks = self._tasks(valid_data) if valid_data is not None and len(valid_data) else []
        scenes = [k for task in tasks if task.name == "scene" for k in task.metrics.topk]
        task, _, metric = self.valid_metric.rpartition("_")
        if task == "scene" and int(metric.rpartition("@")[2]) not in scenes:
            raise UserError(
                f"valid_metric {self.config['valid_metric']}: scenes are so few that only the cut-offs {scenes} of "
                f"scene_topk mean something"
            )

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """One pass over the training batches. Returns the sum of each loss term (a float, or a tuple of them)."""
        self.model.train()
        if (
            distributed.world_size() > 1
        ):  # each process has noise and negative items of its own, the same after a resume
            stream = epoch_idx * distributed.world_size() + distributed.rank() + 1
            init_seed((self.config["seed"] + stream) % 2**32, self.config["reproducibility"])
        loss_func = loss_func or self.model.calculate_loss
        sums: list[float] = []
        recent: list[torch.Tensor] = []  # loss terms of the steps since the last look
        is_tuple = False
        batches = self._progress(train_data, f"Train {epoch_idx:>5}", show_progress)
        for step, interaction in enumerate(batches, start=1):
            if isinstance(self.optimizer, CompositeOptimizer) and hasattr(self.model, "active_optimizers"):
                self.optimizer.active = self.model.active_optimizers(self.steps)
            self.optimizer.zero_grad()
            with torch.autocast(device_type=self.device.type, enabled=self.enable_amp):
                losses = loss_func(interaction.to(self.device))
            is_tuple = isinstance(losses, tuple)
            terms = losses if is_tuple else (losses,)
            self.scaler.scale(sum(terms)).backward()
            distributed.average_gradients(self.model.parameters())
            if self.clip_grad_norm:
                self.scaler.unscale_(self.optimizer)
                for parameters in self._clipped_together():
                    clip_grad_norm_(parameters, **self.clip_grad_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.steps += 1
            recent.append(torch.stack([term.detach().double().reshape(()) for term in terms]))
            if len(recent) == CHECK_EVERY:
                sums = self._add_finite(sums, recent, epoch_idx, step)
                recent = []
        if recent:
            sums = self._add_finite(sums, recent, epoch_idx, step)
        distributed.broadcast_tensors(self.model.buffers())
        if not sums:
            return 0.0
        return tuple(sums) if is_tuple else sums[0]

    def _clipped_together(self) -> list[list[torch.Tensor]]:
        """An adversary's gradient must not rescale the recommender's: each optimiser's parameters have their norm."""
        if isinstance(self.optimizer, CompositeOptimizer):
            return self.optimizer.owned()
        return [list(self.model.parameters())]

    def _add_finite(self, sums: list[float], recent: list[torch.Tensor], epoch: int, last_step: int) -> list[float]:
        """The sums with the terms of some more steps, the newest of them ``last_step``. Raises NonFiniteLoss."""
        steps = distributed.all_reduce_mean(torch.stack(recent)).tolist()
        for step, values in enumerate(steps, start=last_step - len(recent) + 1):
            if not np.isfinite(values).all():
                # Its step spoils the weights, and with them all terms of the next one.
                pairs = zip(self._loss_names(len(values)), values, strict=True)
                bad = ", ".join(f"'{name}' is {value}" for name, value in pairs if not np.isfinite(value))
                last = self.run_dir / "last.pth"
                kept = f"the epoch starts from {last}, which is kept" if last.exists() else "no epoch is finished yet"
                raise NonFiniteLoss(
                    f"training loss {bad} in epoch {epoch}, step {step}; {kept}. Try a smaller learning_rate, "
                    f"clip_grad_norm (--clip_grad_norm='{{max_norm: 1.0}}'), or look for extreme values in the float "
                    f"features."
                )
            sums = [total + value for total, value in zip(sums or [0.0] * len(values), values, strict=True)]
        return sums

    def _loss_names(self, n: int) -> list[str]:
        names = getattr(self.model, "loss_names", None) or ()
        return list(names) if len(names) == n else ["loss"] if n == 1 else [f"loss_{index + 1}" for index in range(n)]

    def _generate_train_loss_output(self, epoch_idx, s_time, e_time, losses):
        terms = losses if isinstance(losses, tuple) else (losses,)
        names = self._loss_names(len(terms))
        digits = self.config["loss_decimal_place"]
        listed = ", ".join(f"{name}: {value:.{digits}f}" for name, value in zip(names, terms, strict=True))
        return f"epoch {epoch_idx} training [time: {e_time - s_time:.2f}s, {listed}]"

    def _log_training(self, epoch: int, losses) -> None:
        terms = losses if isinstance(losses, tuple) else (losses,)
        for name, value in zip(self._loss_names(len(terms)), terms, strict=True):
            self.tensorboard.add_scalar(f"train/{name}", value, epoch)
        self.wandblogger.log_metrics({"epoch": epoch, "train_loss": sum(terms), "train_step": epoch}, head="train")

    def _validate(self, epoch: int, valid_data, log, show_progress: bool) -> bool:
        """Evaluate on the validation rows; returns whether this is the best epoch so far."""
        started = time.time()
        result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        score = calculate_valid_score(result, self.valid_metric)
        self._last_valid = epoch, dict(result)
        self.best_valid_score, self.cur_step, _, improved = early_stopping(
            score, self.best_valid_score, self.cur_step, max_step=self.stopping_step, bigger=self.valid_metric_bigger
        )
        if improved:
            self.best_valid_result, self.best_epoch = dict(result), epoch
        log(f"epoch {epoch} evaluating [time: {time.time() - started:.2f}s, valid_score: {score:f}]")
        log(set_color("valid result", "blue") + ": \n" + dict2str(result))
        for name, value in result.items():
            self.tensorboard.add_scalar(f"valid/{name}", value, epoch)
        self.wandblogger.log_metrics({**result, "valid_step": epoch}, head="valid")
        table = getattr(self.model, "item_embedding", None)
        if isinstance(table, torch.nn.Embedding):
            weight = table.weight.detach()
            self.tensorboard.add_scalar("item_table/rms", float(weight[1:].pow(2).mean().sqrt()), epoch)
        return improved

    # Evaluation

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False, diagnostics=None):
        """Metrics on the rows of a loader, with the weights of `best.pth` if ``load_best_model``.

        Evaluating twice gives the same numbers, and evaluation leaves the global random generators as they were.
        ``diagnostics`` is a `Diagnostics` to fill on the way, or None. Returns metric -> value.
        """
        if not eval_data:
            return None
        if not distributed.is_main_process():
            return _result_or_error(distributed.broadcast_object(None, self.device))
        try:
            if load_best_model:
                path = Path(model_file or self.saved_model_file)
                content = checkpoint.load(path, self.device)
                checkpoint.require_match(path, content, self.config["model"], self.vocabulary)
                checkpoint.load_weights(path, content, self.model)
                self.logger.info(f"Evaluating the weights in {path}")
            with _own_random_stream(self.config):
                result = self._evaluate(eval_data, show_progress, diagnostics)
        except UserError as error:
            distributed.broadcast_object({"error": str(error)}, self.device)
            raise
        return _result_or_error(distributed.broadcast_object({"result": result}, self.device))

    def _evaluate(self, eval_data, show_progress: bool, diagnostics: Diagnostics | None):
        self.model.eval()
        generator = getattr(self.model, "eval_generator", None)
        if generator is not None:
            generator.manual_seed(self.config["seed"])
        full = isinstance(eval_data, FullSortEvalDataLoader)
        score = self._full_sort_batch_eval if full else self._neg_sample_batch_eval
        if self.config["eval_type"] == EvaluatorType.RANKING:
            self.tot_item_num = eval_data._dataset.item_num
            if full and self.item_tensor is None:
                self.item_tensor = eval_data._dataset.get_item_feature().to(self.device)
        tasks = self._tasks(eval_data) if full else []
        has_scenes = any(task.ranks == "scenes" for task in tasks)
        self.scoring = {"rows": 0, "seconds": 0.0}
        scored = 0  # bytes since freed memory was returned
        for batch in self._progress(eval_data, "Evaluate   ", show_progress):
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
                diagnostics.add(
                    scores, interaction, positive_u, positive_i, latent and latent(interaction.to(self.device))
                )
            scored += scores.nbytes
            if scored > RETURN_EVERY and self.device.type == "cpu":
                compat.return_freed_memory()
                scored = 0
        result = self.evaluator.evaluate(self.eval_collector.get_data_struct())
        for task in tasks:
            result.update(task.metrics.result(task.name))
        self.wandblogger.log_eval_metrics(result, head="eval")
        return {name: float(value) for name, value in result.items()}

    def _tasks(self, eval_data) -> list[_Task]:
        """What is scored beside the run's own metrics: all later items, the next scene, all later scenes."""
        config = self.config
        items, scenes = (FUTURE + config[key] + config["LIST_SUFFIX"] for key in ("ITEM_ID_FIELD", "SCENE_FIELD"))
        sets = isinstance(eval_data, SetLoader) and config["positives"] == "both"
        tasks = [_Task("period", TopK(config), items)] if sets else []
        if hasattr(self.model, "full_sort_predict_scene"):
            topk = config["scene_topk"]
            ranked = topk if isinstance(topk, list) else [topk], eval_data._dataset.num(config["SCENE_FIELD"]) - 1
            tasks.append(_Task("scene", TopK(config, *ranked), scenes, ranks="scenes", next_only=True))
            if sets:
                tasks.append(_Task("scene_period", TopK(config, *ranked), scenes, ranks="scenes"))
        return tasks

    def _scene_scores(self, interaction) -> torch.Tensor:
        """[B, n_scenes]. Raises UserError for scores that are not numbers."""
        scores = self.model.full_sort_predict_scene(interaction.to(self.device))
        self._refuse_nan(scores)
        return scores

    def _refuse_nan(self, scores: torch.Tensor) -> None:
        if torch.isnan(scores).any():
            raise UserError(f"{self.config['model']} gives scores that are not numbers: its weights have diverged")

    def _mask_history(self, interaction, scores: torch.Tensor) -> None:
        """Take the items that the model has read out of the ranking (a repeated target can then not be hit)."""
        field = self.config["ITEM_ID_FIELD"] + self.config["LIST_SUFFIX"]
        if field in interaction:
            scores.scatter_(1, interaction[field].to(scores.device), -torch.inf)

    def _progress(self, data, title: str, show: bool):
        """A progress bar, on a terminal only."""
        return tqdm(
            data,
            total=len(data),
            ncols=100,
            desc=title,
            leave=False,
            disable=None if show and distributed.is_main_process() else True,
        )

    # Checkpoints

    def _save(self, name: str, next_epoch: int, train_data) -> None:
        if not distributed.is_main_process():
            return
        content = {
            "model": self.config["model"],
            "config": self.config.settings(),
            "vocabulary": self.vocabulary,
            "serving": self.serving,
            "state_dict": self.model.state_dict(),
            "other_parameter": checkpoint.pack(_other_parameter(self.model)),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "counters": {name: value for name, value in _numbers(self.model) if value != self._initial.get(name)},
            "next_epoch": next_epoch,
            "steps": self.steps,
            "train_seconds": self.train_seconds,
            "cur_step": self.cur_step,
            "best_epoch": self.best_epoch,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": self.best_valid_result,
            "train_loss": {str(epoch): loss for epoch, loss in self.train_loss_dict.items()},
            "random_states": checkpoint.random_states(),
            "loader_state": torch.cat([generator.get_state() for generator in _generators(train_data)]),
        }
        checkpoint.save(self.run_dir / name, content)

    def resume(self, path: Path, vocabulary: dict[str, list[str]]) -> None:
        """Continue from a checkpoint as if the run had never stopped; training starts with the next `fit`."""
        content = checkpoint.load(path, "cpu")
        checkpoint.require_match(path, content, self.config["model"], vocabulary)
        checkpoint.load_weights(path, content, self.model)
        for name, value in content["counters"].items():
            setattr(self.model, name, value)
        if content["config"]["learner"].lower() != self.learner.lower():
            raise checkpoint.CheckpointError(
                f"{path} holds the state of learner {content['config']['learner']}: {self.learner} cannot go on with it"
            )
        groups = [group for optimizer in _members(self.optimizer) for group in optimizer.param_groups]
        rates: list[dict[str, Any]] = [
            {key: group[key] for key in ("lr", "weight_decay") if key in group} for group in groups
        ]
        self.optimizer.load_state_dict(content["optimizer"])
        groups = [group for optimizer in _members(self.optimizer) for group in optimizer.param_groups]
        for group, rate in zip(groups, rates, strict=True):  # what the user has changed for the rest of the run
            group.update(rate)
        self.scaler.load_state_dict(content["scaler"])
        self.start_epoch, self.cur_step = content["next_epoch"], content["cur_step"]
        self.steps = content.get("steps", 0)  # none in checkpoints from before there were several optimisers
        self.train_seconds = content.get("train_seconds", 0.0)  # likewise
        self.best_epoch, self.best_valid_score = content["best_epoch"], content["best_valid_score"]
        self.best_valid_result = content["best_valid_result"]
        self.train_loss_dict = {int(epoch): loss for epoch, loss in content["train_loss"].items()}
        self._resumed = content
        self.logger.info(f"Resuming {path} at epoch {self.start_epoch}")


def create_trainer(config, model) -> Trainer:
    """Our trainer; RecBole's models that need steps of their own (S3Rec, RecVAE, ...) get theirs on top of it."""
    special = get_trainer(config["MODEL_TYPE"], config["model"]) if config.is_recbole_model else RecBoleTrainer
    if special is RecBoleTrainer:
        return Trainer(config, model)
    if distributed.world_size() > 1:
        raise UserError(f"{config['model']} is trained in steps of its own, which nproc cannot share out: use nproc: 1")
    if not issubclass(special, RecBoleTrainer):
        raise UserError(f"{config['model']} is trained by a library of its own, which recbole_gen does not support")
    return type(special.__name__, (special, Trainer), {})(config, model)


def _check_learner(key: str, learner: Any) -> None:
    if str(learner).lower() not in LEARNERS:
        raise UserError(f"{key} must be one of {', '.join(LEARNERS)}, got '{learner}'")


def _optimizer_settings(name: str, settings: Any) -> dict[str, Any]:
    """The settings of one of a model's optimisers, checked. Raises UserError."""
    keys = ("learner", "learning_rate", "weight_decay")
    key, example = f"{name}_optimizer", "{learner: sgd, learning_rate: 0.001, weight_decay: 0.0}"
    if not isinstance(settings, dict) or set(settings) != set(keys):
        raise UserError(f"{key} must be a mapping such as {example}, got {settings!r}")
    _check_learner(f"the learner of {key}", settings["learner"])
    if settings["learner"].lower() == "sparse_adam":
        raise UserError(f"{key}: sparse_adam is for sparse gradients, which these parameters do not have")
    for value in (settings["learning_rate"], settings["weight_decay"]):
        if not (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < np.inf):
            raise UserError(f"{key} needs numbers of at least 0 as in {example}, got {settings!r}")
    return settings


def _members(optimizer) -> list[torch.optim.Optimizer]:
    return list(optimizer.optimizers.values()) if isinstance(optimizer, CompositeOptimizer) else [optimizer]


def _result_or_error(agreed: dict[str, Any]) -> dict[str, float]:
    if "error" in agreed:
        raise UserError(agreed["error"])
    return agreed["result"]


def _generators(train_data) -> list[torch.Generator]:
    """What shuffles the training rows; the loader of a knowledge-aware model is a pair of loaders."""
    if isinstance(train_data, KnowledgeBasedDataLoader):
        return [train_data.general_dataloader.generator, train_data.kg_dataloader.generator]
    return [train_data.generator]


def _other_parameter(model) -> dict[str, Any]:
    """What a model keeps beside its weights. DIN and others name modules there, whose weights are saved anyway."""
    return {key: value for key, value in model.other_parameter().items() if not isinstance(value, torch.nn.Module)}


def _numbers(model):
    """Plain numbers among a model's attributes; those that change in training are counters, as MultiVAE's `update`."""
    return [(name, value) for name, value in vars(model).items() if type(value) in (int, float)]


def vocabulary_of(dataset) -> dict[str, list[str]]:
    """Tokens of users and items in the order of their ids, padding first."""
    return {field: dataset.field2id_token[field].tolist() for field in (dataset.uid_field, dataset.iid_field)}


def serving_of(train) -> dict[str, Any]:
    """What recommending needs of the training part beside its vocabulary, as plain data.

    sizes: field -> how many tokens, padding included; lengths: field -> of its longest sequence; counts: [n_items], how
    often each item occurs; scenes: tokens of the scenes in the order of their ids, padding first, or None;
    item_features: field -> [n_items, ...] of those that the model reads; types: field -> its type.
    """
    scene = train.config["SCENE_FIELD"]
    tokens = train.field2id_token
    read = [*(train.config["selected_features"] or []), train.config["item_attribute"]]
    features = train.item_feat.interaction if train.item_feat is not None and any(read) else {}
    return {
        "sizes": {str(field): len(values) for field, values in tokens.items()},
        "lengths": {str(field): int(length) for field, length in train.field2seqlen.items()},
        "counts": training_counts(train.inter_feat, train.iid_field, train.item_num),
        "scenes": tokens[scene].tolist() if scene in tokens else None,
        "item_features": {str(f): each for f, each in features.items() if f == train.iid_field or f in read},
        "types": {str(field): kind.value for field, kind in train.field2type.items()},
    }


@contextlib.contextmanager
def _own_random_stream(config):
    """Seed the global generators for the duration, then put them back: evaluation does not disturb training."""
    states = checkpoint.random_states()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    init_seed(config["seed"], config["reproducibility"])
    try:
        yield
    finally:
        checkpoint.restore_random_states(states)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
