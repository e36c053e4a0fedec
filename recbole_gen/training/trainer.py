"""One trainer for our models and RecBole's: exact resume, best and last checkpoint, one device sync every few steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from recbole.trainer import NCLTrainer
from recbole.trainer import Trainer as RecBoleTrainer
from recbole.utils import (
    WandbLogger,
    calculate_valid_score,
    dict2str,
    get_trainer,
    init_seed,
    set_color,
)
from torch.nn.utils.clip_grad import clip_grad_norm_
from torch.utils.tensorboard import SummaryWriter

from recbole_gen import checkpoint, distributed
from recbole_gen.data.rows import training_item_counts, training_pairs_of_items
from recbole_gen.errors import UserError
from recbole_gen.evaluation.item_vectors import item_vectors
from recbole_gen.training.divergence import usual_causes
from recbole_gen.training.evaluation_loop import EvaluationLoop
from recbole_gen.training.losses import training_loss
from recbole_gen.training.optimizers import (
    CompositeOptimizer,
    checked_settings,
    require_learner,
    with_fused_step,
)
from recbole_gen.training.schedule import RateSchedule, first_rate, scheduled_epochs
from recbole_gen.training.state import (
    numeric_attributes,
    restore_random_streams,
    restore_training_state,
    serving_data,
    token_vocabulary,
    training_state,
)

LOSS_CHECK_STEPS = 50
"""Steps between two looks at the loss: each look waits for the device."""


class NonFiniteLoss(UserError):
    """A loss term became NaN or infinite."""


class _NoTensorBoard:
    """Stands in for a SummaryWriter, and writes nothing."""

    def _nothing(self, *_):
        pass

    add_scalar = add_hparams = flush = close = _nothing


@dataclass(frozen=True)
class EpochResult:
    """What is known when an epoch ends: ``number`` from 1, scores None as long as there is none of validation;
    ``cpu_seconds`` are the trainer's `train_cpu_seconds` so far."""

    number: int
    train_loss: float
    best_epoch: int
    best_valid_score: float | None
    valid_score: float | None
    valid_result: dict[str, float]
    cpu_seconds: float = 0.0


class Trainer(EvaluationLoop):
    """Trains, validates and tests one model; all that it writes goes to ``config["checkpoint_dir"]``, the run's folder.

    A model may return its loss as a tuple of terms, and name them in ``loss_names``; a model that draws random numbers
    in evaluation makes them of seed and history (`recbole_gen.model.layers.HistoryNoise`). A model with adversaries
    declares its optimisers in ``optimizer_spec()``, name -> (parameters, settings), in the order of their steps;
    settings are a mapping of learner, learning_rate and weight_decay, by custom in the key NAME_optimizer, or None for
    those of the run; None instead of it all means one optimiser. ``active_optimizers(step)``, if there is one, says
    which of them take training step ``step`` (None: all).

    With several processes (`recbole_gen.distributed`) every one trains on its share of each batch; the first evaluates
    and writes.

    Attributes:
        start_epoch: first epoch to train (counted from 0); more than 0 after `resume`.
        best_epoch: epoch of the best validation score (the first one that has it), -1 before the first.
        best_valid_score: that score, not rounded.
        steps: training steps so far, over all epochs.
        train_seconds: what all epochs have taken, validation included, also those before a resume.
        train_cpu_seconds: the CPU time of this process, all of its threads, in them.
        on_epoch: called after every epoch, once its checkpoints are written, with an `EpochResult`; None for nothing.
        initial_numbers: plain numbers among the model's attributes before training, see `numeric_attributes`.
    """

    on_epoch: Callable[[EpochResult], None] | None = None

    def __init__(self, config, model):
        super().__init__(config, model)
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
        require_learner("learner", self.learner)
        self.weight_decay, self.clip_grad_norm = config["weight_decay"], config["clip_grad_norm"]
        self.epochs, self.stopping_step = config["epochs"], config["stopping_step"]
        self.eval_step = min(config["eval_step"], self.epochs)
        self.valid_metric, self.valid_metric_bigger = config["valid_metric"].lower(), config["valid_metric_bigger"]
        self.checkpoint_dir = str(self.run_dir)
        self.gpu_available = self.device.type == "cuda"
        self.enable_amp, self.enable_scaler = config["enable_amp"], self.gpu_available and config["enable_scaler"]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        self.start_epoch = self.cur_step = self.steps = 0
        self.train_seconds = self.train_cpu_seconds = 0.0
        self.best_valid_score = -np.inf if self.valid_metric_bigger else np.inf
        self.best_valid_result: dict[str, float] | None = None
        self.best_epoch = -1
        self._last_valid: tuple[int, dict[str, float]] = (-1, {})
        self.train_loss_dict: dict[int, float] = {}
        self.schedule = RateSchedule(config["lr_scheduler"], config["warmup_steps"])
        self.optimizer = self._build_optimizer()
        self.serving: dict[str, Any] = {}
        self.initial_numbers = numeric_attributes(model)
        self._resumed: dict[str, Any] | None = None
        self._loss: Callable = model.calculate_loss

    def _build_optimizer(self, **kwargs):
        tables = (torch.nn.Embedding, torch.nn.EmbeddingBag)
        sparse = [table.weight for table in self.model.modules() if isinstance(table, tables) and table.sparse]
        spec = None if kwargs or not hasattr(self.model, "optimizer_spec") else self.model.optimizer_spec()
        if spec is None:
            return with_fused_step(super()._build_optimizer(**kwargs), sparse)
        covered = {id(parameter) for parameters, _ in spec.values() for parameter in parameters}
        left = [name for name, p in self.model.named_parameters() if p.requires_grad and id(p) not in covered]
        if left:
            raise ValueError(f"optimizer_spec() of {type(self.model).__name__} leaves out {', '.join(left)}")
        optimizers = {}
        for name, (parameters, settings) in spec.items():
            checked = {} if settings is None else checked_settings(name, settings)
            optimizers[name] = with_fused_step(super()._build_optimizer(params=parameters, **checked), sparse)
        return CompositeOptimizer(optimizers)

    # Training

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Train to ``epochs`` or until the validation score has not risen for more than ``stopping_step`` evaluations.

        Epochs are counted from 1 wherever a person reads them; in result.json and checkpoints, and as steps of
        TensorBoard and Weights & Biases, from 0 as in RecBole.

        After every epoch `last.pth` holds all that resuming needs, and `best.pth` the best epoch so far.
        Returns the best validation score, not rounded, and result. Raises NonFiniteLoss.
        """
        log = self.logger.info if verbose else self.logger.debug
        self.vocabulary, self.serving = token_vocabulary(train_data._dataset), serving_data(train_data._dataset)
        self._collect_training_data(train_data)
        if self.config["train_neg_sample_args"].get("dynamic", False):
            train_data.get_model(self.model)
        if self._resumed is not None:
            restore_random_streams(self._resumed, train_data)
            self._resumed = None
        self._check_valid_metric(valid_data)
        self.schedule.warn_if_never_reached(self.epochs * len(train_data), self.logger)
        distributed.broadcast_tensors(self.model.buffers())  # parallel_loss shares the parameters
        self._loss = distributed.parallel_loss(self.model, training_loss(self.config, self.model))
        if saved and self.start_epoch == 0 and self.epochs == 0:
            self._save("best.pth", 0, train_data)

        for epoch in range(self.start_epoch, self.epochs):
            if self.cur_step > self.stopping_step:
                break  # the run that is resumed had stopped early
            started, cpu_started = time.time(), time.process_time()
            losses = self._train_epoch(train_data, epoch, show_progress=show_progress)
            self.train_loss_dict[epoch] = float(sum(losses)) if isinstance(losses, tuple) else float(losses)
            log(self._generate_train_loss_output(epoch, started, time.time(), losses))
            self._log_losses(epoch, losses)
            improved = valid_data is None or not len(valid_data) or self.eval_step <= 0
            if improved:
                self.best_epoch = epoch
            elif (epoch + 1) % self.eval_step == 0:
                improved = self._validate(epoch, valid_data, log, show_progress)
                if callback_fn:
                    callback_fn(epoch, self.best_valid_score)
            self.train_seconds += time.time() - started
            self.train_cpu_seconds += time.process_time() - cpu_started
            if saved:
                if improved:
                    self._save("best.pth", epoch + 1, train_data)
                self._save("last.pth", epoch + 1, train_data)
            self.tensorboard.flush()
            if self.on_epoch:
                self.on_epoch(self._epoch_result(epoch))
            if self.cur_step > self.stopping_step:
                log(f"Finished training, best eval result in epoch {self.best_epoch + 1}")
                break
        return self.best_valid_score, self.best_valid_result

    def _epoch_result(self, epoch: int) -> EpochResult:
        best = self.best_valid_result
        known = float(calculate_valid_score(best, self.valid_metric)) if best else None
        number, result = self._last_valid
        score = None if number != epoch else float(calculate_valid_score(result, self.valid_metric))
        return EpochResult(
            epoch + 1,
            self.train_loss_dict[epoch],
            self.best_epoch + 1,
            known,
            score,
            {} if score is None else result,
            self.train_cpu_seconds,
        )

    def _check_valid_metric(self, valid_data) -> None:
        """Which cut-offs of scenes there are is known only now. Raises UserError."""
        tasks = self._extra_tasks(valid_data) if valid_data is not None and len(valid_data) else []
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
        loss_func = loss_func or self._loss
        sums: list[float] = []
        recent: list[torch.Tensor] = []  # loss terms of the steps since the last look
        is_tuple = False
        # By epochs, not by `steps`: several passes of one epoch (RecVAE's) all go through its part of the schedule.
        steps_before, all_steps = (epochs * len(train_data) for epochs in (epoch_idx, scheduled_epochs(self)))
        batches = self._progress_bar(train_data, f"Train {epoch_idx + 1:>5}", show_progress)
        for step, interaction in enumerate(batches, start=1):
            if isinstance(self.optimizer, CompositeOptimizer) and hasattr(self.model, "active_optimizers"):
                self.optimizer.active = self.model.active_optimizers(self.steps)
            self.schedule.set_rates(self.optimizer, steps_before + step - 1, all_steps)
            self.optimizer.zero_grad()
            with torch.autocast(device_type=self.device.type, enabled=self.enable_amp):
                losses = loss_func(interaction.to(self.device))
            is_tuple = isinstance(losses, tuple)
            terms = losses if is_tuple else (losses,)
            self.scaler.scale(sum(terms)).backward()
            if self.clip_grad_norm:
                self.scaler.unscale_(self.optimizer)
                for parameters in self._parameters_to_clip():
                    clip_grad_norm_(parameters, **self.clip_grad_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.steps += 1
            recent.append(torch.stack([term.detach().double().reshape(()) for term in terms]))
            if len(recent) == LOSS_CHECK_STEPS:
                sums = self._add_finite_terms(sums, recent, epoch_idx, step)
                recent = []
        if recent:
            sums = self._add_finite_terms(sums, recent, epoch_idx, step)
        distributed.broadcast_tensors(self.model.buffers())
        if not sums:
            return 0.0
        return tuple(sums) if is_tuple else sums[0]

    def _parameters_to_clip(self) -> list[list[torch.Tensor]]:
        """An adversary's gradient must not rescale the recommender's: each optimiser's parameters have their norm."""
        if isinstance(self.optimizer, CompositeOptimizer):
            return self.optimizer.disjoint_parameters()
        return [list(self.model.parameters())]

    def _add_finite_terms(
        self, sums: list[float], recent: list[torch.Tensor], epoch: int, last_step: int
    ) -> list[float]:
        """The sums with the terms of some more steps, the newest of them ``last_step``. Raises NonFiniteLoss."""
        steps = distributed.all_reduce_mean(torch.stack(recent)).tolist()
        for step, values in enumerate(steps, start=last_step - len(recent) + 1):
            if not np.isfinite(values).all():
                # Its step spoils the weights, and with them all terms of the next one.
                pairs = zip(self._loss_names(len(values)), values, strict=True)
                bad = ", ".join(f"'{name}' is {value}" for name, value in pairs if not np.isfinite(value))
                last = self.run_dir / "last.pth"
                kept = f"the epoch starts from {last}, which is kept" if last.exists() else "no epoch is finished yet"
                untrained = self.steps - (last_step - step) == 1
                raise NonFiniteLoss(
                    f"training loss {bad} in epoch {epoch + 1}, step {step}; {kept}. "
                    f"{usual_causes(self.config, untrained)}"
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
        return f"epoch {epoch_idx + 1} training [time: {e_time - s_time:.2f}s, {listed}]"

    def _log_losses(self, epoch: int, losses) -> None:
        terms = losses if isinstance(losses, tuple) else (losses,)
        for name, value in zip(self._loss_names(len(terms)), terms, strict=True):
            self.tensorboard.add_scalar(f"train/{name}", value, epoch)
        self.tensorboard.add_scalar("train/learning_rate", first_rate(self.optimizer), epoch)
        self.wandblogger.log_metrics({"epoch": epoch, "train_loss": sum(terms), "train_step": epoch}, head="train")

    def _validate(self, epoch: int, valid_data, log, show_progress: bool) -> bool:
        """Evaluate on the validation rows; returns whether this is the best epoch so far."""
        started = time.time()
        result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        score = calculate_valid_score(result, self.valid_metric)
        self._last_valid = epoch, dict(result)
        exact = score if self.valid_score is None else self.valid_score
        # RecBole counts an equal score as a better one, and would never stop on a constant one.
        improved = exact > self.best_valid_score if self.valid_metric_bigger else exact < self.best_valid_score
        self.cur_step = 0 if improved else self.cur_step + 1
        if improved:
            self.best_valid_score = exact
            self.best_valid_result, self.best_epoch = dict(result), epoch
        log(f"epoch {epoch + 1} evaluating [time: {time.time() - started:.2f}s, valid_score: {score:f}]")
        log(set_color("valid result", "blue") + ": \n" + dict2str(result))
        for name, value in result.items():
            self.tensorboard.add_scalar(f"valid/{name}", value, epoch)
        self.wandblogger.log_metrics({**result, "valid_step": epoch}, head="valid")
        table = item_vectors(self.model, self.model.n_items) if hasattr(self.model, "n_items") else None
        if table is not None:
            self.tensorboard.add_scalar("item_table/rms", float(table[1:].pow(2).mean().sqrt()), epoch)
        return improved

    # Checkpoints

    def _save(self, name: str, next_epoch: int, train_data) -> None:
        if distributed.is_main_process():
            checkpoint.save(self.run_dir / name, training_state(self, next_epoch, train_data))

    def resume(self, path: Path, vocabulary: dict[str, list[str]]) -> dict[str, Any]:
        """Continue from a checkpoint as if the run had never stopped; training starts with the next `fit`.

        Returns its content.
        """
        content = checkpoint.load(path, "cpu")
        checkpoint.require_match(path, content, self.config["model"], vocabulary)
        checkpoint.load_weights(path, content, self.model)
        restore_training_state(self, path, content)
        self._resumed = content
        self.logger.info(f"Resuming {path} after epoch {self.start_epoch}")
        return content


class CountingTrainer(Trainer):
    """For a model that learns by counting: `count_transitions(pairs_apart, popularity)` gets all training rows.

    Whatever `epochs` says, there is one. With several processes each of them counts everything.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        self.epochs = min(1, self.epochs)

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        data = train_data._dataset
        fields = data.iid_field, data.iid_field + self.config["LIST_SUFFIX"], data.item_list_length_field
        counts = training_item_counts(data)
        self.model.count_transitions(partial(training_pairs_of_items, data.inter_feat, *fields), counts)
        return 0.0


class PopularityTrainer(CountingTrainer):
    """For RecBole's Pop, which ranks by what the line `Pop` of every result ranks by: all events of the training part.

    Its own steps see the targets of rows, and in split files most events are in histories.
    """

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        counts = training_item_counts(train_data._dataset).to(self.model.item_cnt).unsqueeze(1)
        self.model.item_cnt, self.model.max_cnt = counts, counts.max(dim=0)[0]
        return 0.0


def create_trainer(config, model) -> Trainer:
    """Our trainer; RecBole's models that need steps of their own (S3Rec, RecVAE, ...) get theirs on top of it."""
    trainer = _trainer_of(config, model)
    trainer.eval_step = min(trainer.eval_step, trainer.epochs)  # some have one epoch, whatever the configuration says
    return trainer


def _trainer_of(config, model) -> Trainer:
    if hasattr(model, "count_transitions"):
        return CountingTrainer(config, model)
    if config.is_recbole_model and config["model"] == "Pop":
        return PopularityTrainer(config, model)
    special = get_trainer(config["MODEL_TYPE"], config["model"]) if config.is_recbole_model else RecBoleTrainer
    if special is RecBoleTrainer:
        return Trainer(config, model)
    if distributed.world_size() > 1:
        raise UserError(f"{config['model']} is trained in steps of its own, which nproc cannot share out: use nproc: 1")
    if not issubclass(special, RecBoleTrainer):
        raise UserError(f"{config['model']} is trained by a library of its own, which recbole_gen does not support")
    if issubclass(special, NCLTrainer) and RateSchedule(config["lr_scheduler"], config["warmup_steps"]):
        raise UserError("lr_scheduler, warmup_steps: NCL is trained in steps of its own, which they do not reach")
    return type(special.__name__, (special, Trainer), {})(config, model)
