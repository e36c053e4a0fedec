"""Several processes that train together: the same weights as one, exact resume, and mistakes that end all of them."""

from pathlib import Path

import pytest
import torch
from stubs import equal

from recbole_gen import checkpoint, distributed, quick_start
from recbole_gen.data import loaders, row_batches
from recbole_gen.errors import UserError
from recbole_gen.training.trainer import create_trainer

DETERMINISTIC = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


def weights(result) -> dict[str, torch.Tensor]:
    return checkpoint.load(Path(result["run_dir"]) / "last.pth")["state_dict"]


@pytest.mark.parametrize(
    "batches",
    [
        {"train_batch_size": 32},
        # Windows of one to three targets, and odd numbers of them in a batch.
        {"train_pairs": "positions", "positions_batch_size": 5, "MAX_ITEM_LIST_LENGTH": 3},
    ],
    ids=["rows", "positions"],
)
def test_two_processes_give_the_weights_of_one(run, batches, quick_processes):
    one, two = (run("SASRec", nproc=nproc, **batches, **DETERMINISTIC) for nproc in (1, 2))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert weights(one).keys() == weights(two).keys()
    for name, value in weights(one).items():
        assert torch.allclose(value, weights(two)[name], atol=1e-5), name
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)
    assert two["test_result"] == pytest.approx(one["test_result"], abs=0.02)
    assert (Path(two["run_dir"]) / "ranks.test.tsv").exists() and (Path(two["run_dir"]) / "result.json").exists()


def test_a_run_of_two_processes_resumes_exactly(run, quick_processes):
    values = {"nproc": 2, "adv_schedule": "alternate", "train_batch_size": 26}  # 60 rows: 3 steps, the last one short
    whole = run("ACVAE", epochs=2, **values)
    part = run("ACVAE", epochs=1, **values)
    assert checkpoint.load(Path(part["run_dir"]) / "last.pth")["steps"] % 2 == 1
    resumed = quick_start.run(argv=[f"--resume={part['run_dir']}", "--epochs=2"])
    last, uninterrupted = (checkpoint.load(Path(result["run_dir"]) / "last.pth") for result in (resumed, whole))
    for key in ("state_dict", "optimizer", "steps", "train_loss"):
        assert equal(last[key], uninterrupted[key]), key
    assert resumed["test_result"] == whole["test_result"]


def test_a_mistake_that_shows_in_training_ends_all_processes(run, quick_processes):
    with pytest.raises(UserError, match=r"training loss .* is (nan|inf).*learning_rate"):
        run("SASRec", nproc=2, learning_rate=1e30)


IDLE = """
import torch
from custom import Custom


class Idle(Custom):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.idle = torch.nn.Parameter(torch.ones(3))
"""


def test_a_parameter_without_gradient_is_not_decayed(run, custom, capfd):
    folder = Path(custom.__file__).parent
    (folder / "idle.py").write_text(IDLE)
    (folder / "Idle.yaml").write_text("width: 8\n")
    result = run("idle:Idle", nproc=2, epochs=1, learner="adamw", weight_decay=0.5)
    assert result["processes"] == 2
    assert weights(result)["idle"].tolist() == [1, 1, 1]
    assert "find_unused_parameters" not in capfd.readouterr().err


APART = """
import torch
from custom import Custom
from recbole_gen import distributed


class Apart(Custom):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.dropout.p = 0.0
        self.item_embedding.weight.data.mul_(1 + distributed.rank())
        self.frozen = torch.nn.Parameter(torch.full((), 1.0 + distributed.rank()), requires_grad=False)
        self.register_buffer("factor", torch.full((), 1.0 + distributed.rank()))

    def calculate_loss(self, interaction):
        ranking, decay = super().calculate_loss(interaction)
        return self.frozen * self.factor * ranking, decay
"""


def test_all_processes_begin_with_what_the_first_one_has(run, custom, quick_processes):
    folder = Path(custom.__file__).parent
    (folder / "apart.py").write_text(APART)
    (folder / "Apart.yaml").write_text("width: 8\nlearning_rate: 0.01\n")
    one, two = (run("apart:Apart", nproc=nproc, epochs=1, train_batch_size=60) for nproc in (1, 2))
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)
    for name, value in weights(one).items():
        assert torch.allclose(value, weights(two)[name], atol=1e-5), name


def test_models_without_gradients_are_left_alone(make_config, walks, monkeypatch):
    config = make_config("Pop")
    model = config.model_class(config, loaders.create_dataset(config))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert distributed.parallel_loss(model, model.calculate_loss) == model.calculate_loss


@pytest.mark.parametrize(
    ("rows", "shares"),
    [([1, 2, 3, 4], ([1, 3], [2, 4])), ([1, 2, 3], ([1, 3], [2, 1])), ([5], ([5], [5]))],
)
def test_every_process_has_a_share_of_equal_size(rows, shares, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank, share in enumerate(shares):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        assert row_batches.rows_of_this_process(torch.tensor(rows)).tolist() == share


def test_models_with_batches_or_steps_of_their_own_are_refused(walks, make_config, monkeypatch):
    config = make_config("RecVAE")
    dataset = loaders.create_dataset(config)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(UserError, match=r"RecVAE has batches of its own kind.*nproc"):
        loaders.create_loaders(config, dataset)
    with pytest.raises(UserError, match=r"RecVAE is trained in steps of its own.*nproc"):
        create_trainer(config, None)


def test_one_process_is_on_its_own():
    assert (distributed.world_size(), distributed.rank(), distributed.is_main_process()) == (1, 0, True)
    values = torch.rand(3)
    assert distributed.all_reduce_mean(values) is values
    assert distributed.broadcast_object({"a": 1.5}, torch.device("cpu")) == {"a": 1.5}
