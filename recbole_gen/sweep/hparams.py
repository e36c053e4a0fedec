"""What TensorBoard's HPARAMS page shows of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_gen.sweep import state


def write_hparams(folder: Path, trials: list[dict[str, Any]], metric: str) -> None:
    """A file of events beside the curves of each trial that has none yet: `tensorboard --logdir=FOLDER/trials`."""
    from torch.utils.tensorboard import SummaryWriter

    for trial in trials:
        place = state.trial_folder(folder, trial["number"])
        if any(place.glob("*.hparams")):
            continue  # of an earlier part of the sweep
        with SummaryWriter(str(place), filename_suffix=".hparams") as writer:
            writer.add_hparams(state.flat_params(trial), {f"valid/best_{metric}": trial["score"]}, run_name=".")
