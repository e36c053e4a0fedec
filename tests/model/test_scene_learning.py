"""DSPnet learns what its paper says scenes are for: on a made log, whose optimum is known, items alone tell nothing.

The generator, for 12 scenes (a, b) with a of 3 and b of 4, and 20 items in 4 classes of 5:
    a of the next event   (a + 1) mod 3 with probability 0.9, each of the two others with 0.05
    b of the next event   one of 4, evenly, independent of everything before
    the next item         class (a + b) mod 4 of this event's scene, and one of the class's 5 items, evenly
b hides a as a one-time pad does: whatever a is, each class is equally likely, so that the items of a history say
nothing about the next one, nor about a.
    optimum of recall@5 of the next item     1 from the last scene; 1/4 from the items, by any model
    optimum of recall@4 of the next scene    0.9, with the four scenes of the likeliest a; without history 1/3
    optimum of recall@1 of the next scene    0.9 / 4; without history 1/12
"""

import numpy as np
import pytest

from recbole_gen import quick_start

pytestmark = pytest.mark.usefixtures("one_thread")

A, B, IN_CLASS, USERS, EVENTS = 3, 4, 5, 500, 8
REGULAR = 0.9
BY_ITEMS = 1 / B


def draw(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scenes and items of the generator, [USERS, EVENTS] each; scene (a, b) has number B a + b."""
    rng = np.random.default_rng(seed)
    step = rng.choice(A, p=[(1 - REGULAR) / 2, REGULAR, (1 - REGULAR) / 2], size=(USERS, EVENTS))
    a = (rng.integers(A, size=(USERS, 1)) + step.cumsum(axis=1)) % A
    b = rng.integers(B, size=(USERS, EVENTS))
    classes = (a + b) % B
    classes = np.concatenate([rng.integers(B, size=(USERS, 1)), classes[:, :-1]], axis=1)
    return B * a + b, IN_CLASS * classes + rng.integers(IN_CLASS, size=(USERS, EVENTS))


@pytest.fixture
def log(write_atomic):
    """The scenes and items, which are the data set `toy`."""
    scenes, items = draw()
    users, times = np.indices(scenes.shape)
    write_atomic(
        {
            "user_id:token": [f"u{user}" for user in users.flat],
            "item_id:token": [f"i{item}" for item in items.flat],
            "timestamp:float": (1000 * users + times).flatten().tolist(),
            "scene:token": [f"s{scene}" for scene in scenes.flat],
        }
    )
    return scenes, items


def share_guessed(known: np.ndarray, target: np.ndarray) -> float:
    """How often the commonest target of a known value is the target: the best rule there is, told the answers."""
    table = np.zeros((known.max() + 1, target.max() + 1))
    np.add.at(table, (known, target), 1)
    return table.max(axis=1).sum() / len(target)


def test_the_generator_is_as_described():
    scenes, items = draw()
    classes = items // IN_CLASS
    assert share_guessed(scenes[:, :-1].ravel(), classes[:, 1:].ravel()) == 1.0
    assert share_guessed(classes[:, :-1].ravel(), classes[:, 1:].ravel()) < BY_ITEMS + 0.03
    pairs = B * classes[:, :-2] + classes[:, 1:-1]
    assert share_guessed(pairs.ravel(), classes[:, 2:].ravel()) < BY_ITEMS + 0.05
    assert share_guessed(pairs.ravel(), scenes[:, 1:-1].ravel() // B) < 1 / A + 0.05
    a = scenes // B
    assert share_guessed(scenes[:, :-1].ravel(), a[:, 1:].ravel()) == pytest.approx(REGULAR, abs=0.02)


@pytest.fixture
def train(log, tmp_path):
    """train(model, **values): the test metrics, with leave_one_out and the next event as label, as SASRec has it."""

    def train(model: str, **values) -> dict[str, float]:
        common = {
            "data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved"), "use_gpu": False, "num_threads": 1,
            "show_progress": False, "state": "WARNING", "tensorboard": False, "diagnostics": False, "save_ranks": False,
            "hidden_size": 32, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 8, "train_batch_size": 64, "epochs": 4,
            "learning_rate": 0.005, "eval_step": 2, "metrics": ["Recall"], "topk": [5], "valid_metric": "Recall@5",
        }  # fmt: skip
        own = {"scene_size": 32, "future_events": 1, "scene_topk": [1, 4]} if model == "DSPnet" else {"inner_size": 64}
        return quick_start.run(model, "toy", config_dict={**common, **own, **values})["test_result"]

    return train


def test_scenes_tell_what_items_do_not(train, log):
    scenes, _ = log
    a = scenes // B
    regular = float((a[:, -1] == (a[:, -2] + 1) % A).mean())  # recall@4 of the optimal rule on the test rows
    assert regular == pytest.approx(REGULAR, abs=0.04)

    whole = train("DSPnet")
    bare = train("DSPnet", alpha_k=0, beta_k=0)
    apart = train("DSPnet", fusion="no_concat", alpha_k=0, beta_k=0)
    items_only = train("SASRec")
    for result in (whole, bare):
        assert result["recall@5"] > 0.95
        assert result["scene_recall@4"] > 0.95 * regular
    # The optimum of one guess is 0.9 / 4, and 500 rows measure it with an error of 0.02.
    assert whole["scene_recall@1"] == pytest.approx(REGULAR / B, abs=0.045)
    assert items_only["recall@5"] < BY_ITEMS + 0.1
    assert apart["recall@5"] < BY_ITEMS + 0.1
    assert apart["scene_recall@4"] > 0.95 * regular  # its scenes do not need the items
