"""Each of our models learns on real data: it beats popularity, and itself where it reads the history of another one."""

import pytest
import torch
from conftest import ON_ML_100K
from recbole.data.interaction import Interaction

from recbole_gen.config import registry
from recbole_gen.quick_start import load, run

POSITIONS = {"train_pairs": "positions", "positions_batch_size": 16, "causal": True, "positions_from": "start"}
SHORT = {  # enough to see it, in seconds
    "DreamRec": {"epochs": 2, "eval_step": 2, "learning_rate": 0.003},
    "DiffRec": {
        **POSITIONS,
        "epochs": 2,
        "eval_step": 2,
        "hidden_size": 32,
        "inner_size": 64,
        "n_layers": 1,
        "n_seeds": 2,
        "dropout_prob": 0.1,
        "learning_rate": 0.005,
    },
    "PASRec": {"epochs": 3, "eval_step": 3, "last_events": 100, "learning_rate": 0.01},
    "PreferDiff": {"epochs": 3, "eval_step": 3, "last_events": 60, "learning_rate": 0.01},
    "ACVAE": {
        "epochs": 2,
        "last_events": 60,
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
        **POSITIONS,
        "last_events": 60,
        "epochs": 2,
        "eval_step": 2,
        "hidden_size": 32,
        "inner_size": 64,
        "n_encoder_layers": 1,
        "n_decoder_layers": 1,
        "learning_rate": 0.01,
        "id_codes": 64,
        "beam_size": 20,
    },
    "Transitions": {},
}


def ndcg_with_other_histories(model, rows) -> float:
    """NDCG@10 of the rows' items where each row is scored by the history of the row before it."""
    total, number = 0.0, 0
    for batch, _, _, item in rows:
        others = Interaction({column: values.roll(1, 0) for column, values in batch.interaction.items()})
        scores = model.full_sort_predict(others)
        rank = (scores > scores.gather(1, item.unsqueeze(1))).sum(1)
        total += torch.where(rank < 10, 1 / torch.log2(rank + 2.0), 0.0).sum().item()
        number += len(item)
    return total / number


@pytest.mark.parametrize("model", registry.MODELS)
def test_beats_popularity_and_the_histories_of_others(model, tmp_path):
    settings = {
        **SHORT[model],
        **ON_ML_100K.get(model, {}),
        "num_threads": 1,
        "show_progress": False,
        "checkpoint_dir": str(tmp_path / "saved"),
    }
    result = run(model, "ml-100k", config_dict=settings)
    trained = load(result["run_dir"])
    with torch.no_grad():
        for part, rows in (("best_valid_result", trained.valid), ("test_result", trained.test)):
            assert result[part]["ndcg@10"] > 1.5 * ndcg_with_other_histories(trained.model, rows)
    assert result["test_result"]["ndcg@10"] > result["diagnostics"]["pop"]["ndcg@10"]
