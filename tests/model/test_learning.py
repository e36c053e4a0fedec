"""Each of our models learns on real data: it beats popularity, and itself with the link from history to target cut."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recbole
from conftest import ON_ML_100K

from recbole_gen.config import registry
from recbole_gen.quick_start import run

SHORT = {  # enough to see it, in seconds
    "DreamRec": {"epochs": 4},
    "DiffRec": {"epochs": 3, "hidden_size": 32, "inner_size": 64, "n_layers": 1, "n_seeds": 5, "dropout_prob": 0.1},
    "PASRec": {"epochs": 3},
    "PreferDiff": {"epochs": 4, "last_events": 100},
    "ACVAE": {
        "epochs": 2,
        "embedding_size": 64,
        "rnn_size": 64,
        "latent_size": 32,
        "learning_rate": 0.005,
        "eval_step": 1,
        "MAX_ITEM_LIST_LENGTH": 20,
        "dropout_prob": 0.2,
        "emb_dropout_prob": 0.2,
    },
    "DSPnet": {
        "epochs": 2,
        "hidden_size": 32,
        "scene_size": 8,
        "n_layers": 1,
        "train_batch_size": 256,
        "train_pairs": "window",
        "window_step": 6,
        "future_events": 1,
        "learning_rate": 0.003,
        "beta_k": 0.1,
    },
    "TIGER": {
        "epochs": 5,
        "hidden_size": 32,
        "inner_size": 64,
        "n_encoder_layers": 1,
        "n_decoder_layers": 1,
        "train_pairs": "window",
        "MAX_ITEM_LIST_LENGTH": 5,
        "learning_rate": 0.005,
        "id_codes": 64,
        "beam_size": 50,
        "eval_step": 5,
    },
    "Transitions": {},
}


@pytest.fixture(scope="module")
def shuffled_path(tmp_path_factory) -> Path:
    """ml-100k with the training items dealt out anew: the same popularity, validation and test, but no sequences."""
    base = tmp_path_factory.mktemp("data")
    folder = base / "ml-100k"
    source = Path(recbole.__file__).parent / "dataset_example/ml-100k/ml-100k.inter"
    log = pd.read_csv(source, sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    log = log.sort_values("timestamp:float", kind="stable")
    trains = log.groupby("user_id:token").cumcount(ascending=False) >= 2
    items = log["item_id:token"].to_numpy(copy=True)
    items[trains] = np.random.default_rng(0).permutation(items[trains])
    folder.mkdir()
    shutil.copy(source.with_suffix(".item"), folder)
    log.assign(**{"item_id:token": items}).to_csv(folder / "ml-100k.inter", sep="\t", index=False)
    return base


@pytest.mark.parametrize("model", registry.MODELS)
def test_beats_popularity_and_shuffled_labels(model, shuffled_path, tmp_path):
    settings = {
        **SHORT[model],
        **ON_ML_100K.get(model, {}),
        "num_threads": 1,
        "show_progress": False,
        "checkpoint_dir": str(tmp_path / "saved"),
    }
    real = run(model, "ml-100k", config_dict=settings)
    shuffled = run(model, "ml-100k", config_dict=settings | {"data_path": str(shuffled_path), "diagnostics": False})
    for part in ("best_valid_result", "test_result"):
        assert real[part]["ndcg@10"] > 1.5 * shuffled[part]["ndcg@10"]
    assert real["test_result"]["ndcg@10"] > real["diagnostics"]["pop"]["ndcg@10"]
