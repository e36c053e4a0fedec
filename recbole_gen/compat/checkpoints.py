"""RecBole's checkpoints as plain data, which torch reads without unpickling."""

from __future__ import annotations

from types import ModuleType

import torch


def keep_pretrained_checkpoints_plain(module: ModuleType) -> None:
    """trainer.py:755 saves S3Rec's pre-trained model with the pickled Config in it, which torch.load refuses since
    torch 2.6 (#2187, #2212): only what S3Rec reads back is saved."""

    def save_pretrained_model(self, epoch, saved_model_file):
        torch.save({"epoch": epoch, "state_dict": self.model.state_dict()}, saved_model_file)

    module.PretrainTrainer.save_pretrained_model = save_pretrained_model
