"""RecBole's checkpoints as plain data, which torch reads without unpickling: `recbole_gen.checkpoint` says how.

RecBole pickles its Config into every checkpoint, and torch refuses that since 2.6 (#2187, #2212), so that a run fails
at its test, in the minute after it wrote the file. Unpickling stays off; what is written and read changes. Deletable
when upstream saves plain data.
"""

from __future__ import annotations

import logging
import sys
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import torch

from recbole_gen import checkpoint
from recbole_gen.errors import UserError

PLACES = ("device", "single_spec", "local_rank")
"""Keys of the machine that a model was trained on; a Config finds its own."""


def save_plain_checkpoints(module: ModuleType) -> None:
    """trainer.py:289, 984: `_save_checkpoint` of all trainers but the decision trees', and of those."""

    def save_network(self, epoch, verbose=True, **kwargs):
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        _save(
            path, self.config, epoch=epoch, cur_step=self.cur_step, best_valid_score=self.best_valid_score,
            state_dict=self.model.state_dict(), other_parameter=_other_parameter(self.model),
            optimizer=self.optimizer.state_dict(),
        )  # fmt: skip
        if verbose:
            self.logger.info(module.set_color("Saving current", "blue") + f": {path}")

    def save_trees(self, epoch):
        _save(
            self.saved_model_file, self.config, epoch=epoch, cur_step=self.cur_step,
            best_valid_score=self.best_valid_score, state_dict=self.temp_best_file, other_parameter=None,
        )  # fmt: skip

    module.Trainer._save_checkpoint = save_network
    module.DecisionTreeTrainer._save_checkpoint = save_trees


def save_pretrained_models_plainly(module: ModuleType) -> None:
    """trainer.py:755: what the pre-training stages of S3Rec and RaCT leave for the next one."""

    def save_pretrained_model(self, epoch, saved_model_file):
        _save(
            saved_model_file, self.config, epoch=epoch, state_dict=self.model.state_dict(),
            other_parameter=_other_parameter(self.model),
        )  # fmt: skip
        if type(self).evaluate is module.Trainer.evaluate:  # our trainer reads its own best.pth only
            self.saved_model_file = saved_model_file

    module.PretrainTrainer.save_pretrained_model = save_pretrained_model


def dump_neumf_plainly(module: ModuleType) -> None:
    """neumf.py:159-165: `dump_parameters` pickles the whole model; `load_pretrain` is content with its weights."""

    def dump_parameters(self):
        if self.mf_train != self.mlp_train:
            torch.save(self.state_dict(), self.mf_pretrain_path if self.mf_train else self.mlp_pretrain_path)

    module.NeuMF.dump_parameters = dump_parameters


def resume_from_plain_checkpoints(module: ModuleType) -> None:
    """trainer.py:314: `resume_checkpoint`."""

    def resume_checkpoint(self, resume_file):
        self.saved_model_file = str(resume_file)
        content = checkpoint.load(resume_file, self.device, checkpoint.RECBOLE_FORMAT)
        if "optimizer" not in content:
            raise checkpoint.CheckpointError(f"{resume_file} is of a pre-training stage, from which no run goes on")
        if content["config"]["model"].lower() != self.config["model"].lower():
            self.logger.warning(
                f"{resume_file} is a checkpoint of {content['config']['model']}, not of {self.config['model']}: its "
                f"weights may not fit"
            )
        self.start_epoch = content["epoch"] + 1
        self.cur_step, self.best_valid_score = content["cur_step"], content["best_valid_score"]
        checkpoint.load_weights(resume_file, content, self.model)
        self.optimizer.load_state_dict(content["optimizer"])
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")

    module.Trainer.resume_checkpoint = resume_checkpoint


def evaluate_from_plain_checkpoints(module: ModuleType) -> None:
    """trainer.py:583: `evaluate` loads the best epoch, or ``model_file``, before it begins."""
    evaluate_as_is = module.Trainer.evaluate

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        if eval_data and load_best_model:
            path = model_file or self.saved_model_file
            content = checkpoint.load(path, self.device, checkpoint.RECBOLE_FORMAT)
            checkpoint.load_weights(path, content, self.model)
            self.logger.info(f"Loading model structure and parameters from {path}")
        return evaluate_as_is(self, eval_data, load_best_model=False, show_progress=show_progress)

    module.Trainer.evaluate = evaluate


def load_plain_data_and_model(module: Any) -> None:
    """quick_start.py:233: `load_data_and_model`, which needs the Config that was pickled."""
    package: Any = sys.modules["recbole.quick_start"]  # imports the function by name

    def load_data_and_model(model_file):
        """RecBole's: the configuration, the model, the data set and its three loaders of a checkpoint.

        Raises UserError for a file that RecBole's own trainers have not written with recbole_gen imported.
        """
        content = checkpoint.load(model_file, kind=checkpoint.RECBOLE_FORMAT)
        config = _config(module.Config, content["config"])
        if config["device"].type != "cpu":
            content = checkpoint.load(model_file, config["device"], checkpoint.RECBOLE_FORMAT)
        module.init_seed(config["seed"], config["reproducibility"])
        module.init_logger(config)
        logger = logging.getLogger()
        logger.info(config)
        dataset = module.create_dataset(config)
        logger.info(dataset)
        train_data, valid_data, test_data = module.data_preparation(config, dataset)
        module.init_seed(config["seed"], config["reproducibility"])
        model = module.get_model(config["model"])(config, train_data._dataset).to(config["device"])
        checkpoint.load_weights(model_file, content, model)
        return config, model, dataset, train_data, valid_data, test_data

    module.load_data_and_model = load_data_and_model
    if hasattr(package, "load_data_and_model"):
        package.load_data_and_model = load_data_and_model


def _save(path, config, other_parameter, **content) -> None:
    packed = checkpoint.pack_other_parameter({**content, "other_parameter": other_parameter})
    settings = {}
    for key, value in config.final_config_dict.items():
        if key in PLACES:
            continue
        try:
            settings[key] = _plain(value)
        except TypeError:
            logging.getLogger().warning(f"{key} is a {type(value).__name__}, and is left out of {path}")
    checkpoint.save(path, {"format": checkpoint.RECBOLE_FORMAT, "config": settings, **packed})


def _other_parameter(model) -> dict[str, Any]:
    """What a model keeps beside its weights. Modules are among these already."""
    return {key: value for key, value in model.other_parameter().items() if not isinstance(value, torch.nn.Module)}


def _plain(value: Any) -> Any:
    """A value of a Config in types that are read back without unpickling. Raises TypeError if it has none."""
    if isinstance(value, Enum) and type(value).__module__ == "recbole.utils.enum_type":
        return {"__enum__": [type(value).__name__, value.name]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else list(map(_plain, value))
    if value is None or isinstance(value, (bool, int, float, str, torch.Tensor)):
        return value
    raise TypeError


def _from_plain(value: Any) -> Any:
    """The inverse of `_plain`."""
    if isinstance(value, dict):
        if "__enum__" in value:
            kind, name = value["__enum__"]
            return getattr(sys.modules["recbole.utils.enum_type"], kind)[name]
        return {key: _from_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_from_plain, value))
    return value


def _config(config_class: Any, settings: dict[str, Any]):
    """A Config of RecBole with these final values, on a device of this machine; no file and no argument is read."""
    config = config_class.__new__(config_class)
    config.final_config_dict = _from_plain(settings)
    config.compatibility_settings()
    config._init_parameters_category()
    config._init_device()
    config.yaml_loader = config._build_yaml_loader()
    config.file_config_dict, config.variable_config_dict, config.cmd_config_dict = {}, {}, {}
    config.internal_config_dict, config.external_config_dict = {}, dict(config.final_config_dict)
    config.model, config.dataset = settings["model"], settings["dataset"]
    try:
        config.model_class = sys.modules["recbole.utils"].get_model(config.model)
    except (ValueError, ImportError):  # RecBole looks for what it does not know in optional packages
        raise UserError(f"RecBole has no model '{config.model}', of which the checkpoint is") from None
    return config
