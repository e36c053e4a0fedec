"""What a checkpoint of a run holds: all that training needs to go on, and all that recommending needs of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from recbole.data.dataloader import KnowledgeBasedDataLoader

from recbole_gen import checkpoint
from recbole_gen.data.given_vectors import GivenVectors
from recbole_gen.data.rows import training_item_counts
from recbole_gen.training.optimizers import CompositeOptimizer, inner_optimizers


def token_vocabulary(dataset) -> dict[str, list[str]]:
    """Tokens of users and items in the order of their ids, padding first."""
    return {field: dataset.field2id_token[field].tolist() for field in (dataset.uid_field, dataset.iid_field)}


def serving_data(train) -> dict[str, Any]:
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
        # RecBole has (events, values of an event) for histories of sequences.
        "lengths": {str(f): int(n[0] if isinstance(n, tuple) else n) for f, n in train.field2seqlen.items()},
        "counts": training_item_counts(train),
        "scenes": tokens[scene].tolist() if scene in tokens else None,
        "item_features": {str(f): each for f, each in features.items() if f == train.iid_field or f in read},
        "types": {str(field): kind.value for field, kind in train.field2type.items()},
    }


def training_state(trainer, next_epoch: int, train_data) -> dict[str, Any]:
    """The content of a checkpoint from which training goes on with epoch ``next_epoch``, counted from 0."""
    model, initial = trainer.model, trainer.initial_numbers
    return {
        "model": trainer.config["model"],
        "config": trainer.config.settings(),
        "vocabulary": trainer.vocabulary,
        "serving": trainer.serving,
        **(model.given_vectors.checkpoint_entries() if hasattr(model, "given_vectors") else {}),
        "state_dict": model.state_dict(),
        "other_parameter": checkpoint.pack_other_parameter(_other_parameter(model)),
        "optimizer": _all_optimizers(trainer).state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "counters": {k: value for k, value in numeric_attributes(model).items() if value != initial.get(k)},
        "next_epoch": next_epoch,
        "steps": trainer.steps,
        "threads": torch.get_num_threads(),
        "train_seconds": trainer.train_seconds,
        "train_cpu_seconds": trainer.train_cpu_seconds,
        "cur_step": trainer.cur_step,
        "best_epoch": trainer.best_epoch,
        "best_valid_score": float(trainer.best_valid_score),
        "best_valid_result": trainer.best_valid_result,
        "train_loss": {str(epoch): loss for epoch, loss in trainer.train_loss_dict.items()},
        "random_states": checkpoint.random_states(),
        "loader_state": torch.cat([generator.get_state() for generator in _shuffle_generators(train_data)]),
    }


def restore_training_state(trainer, path: Path, content: dict[str, Any]) -> None:
    """Put all but weights and random streams back: counters, optimisers, and how far training has come.

    Learning rates and weight decay stay those of the trainer. Raises CheckpointError for the state of another learner.
    """
    for name, value in content["counters"].items():
        setattr(trainer.model, name, value)
    if hasattr(trainer.model, "given_vectors") and "item_vectors_factor" in content:
        # The vectors are those of the checkpoint, and so is what was done to them: the file may have changed since.
        trainer.model.given_vectors = GivenVectors.from_checkpoint(content)
    if content["config"]["learner"].lower() != trainer.learner.lower():
        raise checkpoint.CheckpointError(
            f"{path} holds the state of learner {content['config']['learner']}: {trainer.learner} cannot go on with it"
        )
    optimizer = _all_optimizers(trainer)
    groups = [group for inner in inner_optimizers(optimizer) for group in inner.param_groups]
    rates: list[dict[str, Any]] = [
        {key: group[key] for key in ("lr", "weight_decay") if key in group} for group in groups
    ]
    saved_as_one = "param_groups" in content["optimizer"]
    if saved_as_one == isinstance(optimizer, CompositeOptimizer):
        one, several = "one optimiser for all weights", "optimisers of their own for some weights"
        begun, now = (one, several) if saved_as_one else (several, one)
        raise checkpoint.CheckpointError(
            f"{path} is of a run with {begun}, and these settings have {now}: go on with the settings that it "
            f"has in its config.yaml"
        )
    optimizer.load_state_dict(content["optimizer"])
    groups = [group for inner in inner_optimizers(optimizer) for group in inner.param_groups]
    for group, rate in zip(groups, rates, strict=True):  # what the user has changed for the rest of the run
        group.update(rate)
        group.pop("initial_lr", None)  # a schedule multiplies the rate of the trainer
    trainer.scaler.load_state_dict(content["scaler"])
    trainer.start_epoch, trainer.cur_step = content["next_epoch"], content["cur_step"]
    trainer.steps = content.get("steps", 0)  # none in checkpoints from before there were several optimisers
    trainer.train_seconds = content.get("train_seconds", 0.0)  # likewise
    trainer.train_cpu_seconds = content.get("train_cpu_seconds", 0.0)  # likewise
    trainer.best_epoch, trainer.best_valid_score = content["best_epoch"], content["best_valid_score"]
    trainer.best_valid_result = content["best_valid_result"]
    trainer.train_loss_dict = {int(epoch): loss for epoch, loss in content["train_loss"].items()}


def _all_optimizers(trainer):
    """The trainer's optimiser; RecVAE's has two, optimizer_encoder and optimizer_decoder, in turns."""
    optimizers = {
        name: value
        for name, value in vars(trainer).items()
        if name.startswith("optimizer_") and isinstance(value, torch.optim.Optimizer)
    }
    return CompositeOptimizer(optimizers) if optimizers else trainer.optimizer


def restore_random_streams(content: dict[str, Any], train_data) -> None:
    """Put the global random generators, and those that shuffle the training rows, back to where the checkpoint was."""
    checkpoint.restore_random_states(content["random_states"])
    generators = _shuffle_generators(train_data)
    states = content["loader_state"].cpu().chunk(len(generators))
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state.clone())  # of a view, torch reads the bytes of its base


def _shuffle_generators(train_data) -> list[torch.Generator]:
    """What shuffles the training rows; the loader of a knowledge-aware model is a pair of loaders."""
    if isinstance(train_data, KnowledgeBasedDataLoader):
        return [train_data.general_dataloader.generator, train_data.kg_dataloader.generator]
    return [train_data.generator]


def _other_parameter(model) -> dict[str, Any]:
    """What a model keeps beside its weights. DIN and others name modules there, whose weights are saved anyway."""
    return {key: value for key, value in model.other_parameter().items() if not isinstance(value, torch.nn.Module)}


def numeric_attributes(model) -> dict[str, int | float]:
    """Plain numbers among a model's attributes; those that change in training are counters, as MultiVAE's `update`."""
    return {name: value for name, value in vars(model).items() if type(value) in (int, float)}
