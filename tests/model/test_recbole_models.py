"""RecBole's own models run through our command line with RecBole's own results; the shims change no result."""

import inspect
import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import recbole
import recbole.config
import recbole.data
import torch
from evaluator_ranks import require_ranks_of_evaluator
from recbole.evaluator import Collector, Evaluator
from recbole.model.layers import FeedForward, MultiHeadAttention
from recbole.model.sequential_recommender import SASRec
from recbole.utils import get_model, get_trainer, init_seed
from scipy.sparse import dok_matrix

from recbole_gen import checkpoint, quick_start
from recbole_gen.cli import main
from recbole_gen.compat.alike_lengths import READ_PADDING
from recbole_gen.config import registry
from recbole_gen.config.config import Config
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.errors import UserError
from recbole_gen.evaluation.ranking import TopKCollector
from recbole_gen.model import alike_lengths
from recbole_gen.options import parse_arguments
from recbole_gen.recommending.recommender import Recommender

# RecBole's use of what pandas, NumPy and torch are going to remove.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:recbole\."),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:torch.sparse.SparseTensor:UserWarning:recbole\."),
    pytest.mark.filterwarnings(r"ignore:`torch.cuda.amp:FutureWarning:recbole\."),
]

RECBOLE = Path(recbole.__file__).parent
SEQUENTIAL = [
    "BERT4Rec", "Caser", "CORE", "DIEN", "DIN", "FDSA", "FEARec", "FOSSIL", "FPMC", "GCSAN", "GRU4Rec", "GRU4RecCPR",
    "GRU4RecF", "GRU4RecKG", "HGN", "HRM", "KSR", "LightSANs", "NARM", "NextItNet", "NPE", "RepeatNet", "S3Rec",
    "SASRec", "SASRecCPR", "SASRecF", "SHAN", "SINE", "SRGNN", "STAMP", "TransRec",
]  # fmt: skip
# Beside the general models, one or two of each other kind of trainer and data set.
OTHERS = [
    "Pop", "BPR", "ItemKNN", "EASE", "MultiVAE", "recbole.DiffRec", "LDiffRec", "RecVAE", "MacridVAE", "LightGCN",
    "CKE", "KTUP", "DeepFM",
]  # fmt: skip
# As RecBole's documentation says: pre-trained vectors of entities and relations in files of their own.
KNOWLEDGE = [
    "--load_col={inter: [user_id, item_id, timestamp], kg: [head_id, relation_id, tail_id], "
    "link: [item_id, entity_id], ent: [ent_id, ent_emb], rel: [rel_id, rel_emb]}",
    "--additional_feat_suffix=[ent, rel]",
    "--alias_of_entity_id=[ent_id]",
    "--alias_of_relation_id=[rel_id]",
    "--preload_weight={ent_id: ent_emb, rel_id: rel_emb}",
]
NEEDS = {"GRU4RecKG": KNOWLEDGE, "KSR": KNOWLEDGE}
SMALL = ["--use_gpu=False", "--num_threads=1", "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=512"]


@pytest.fixture(scope="session")
def data_path(tmp_path_factory):
    """ml-100k cut to 100 users with at most 40 items each, and random vectors for the entities and relations."""
    base = tmp_path_factory.mktemp("data")
    source, folder = RECBOLE / "dataset_example/ml-100k", base / "ml-100k"
    folder.mkdir()

    def read(suffix):
        title, *lines = (source / f"ml-100k.{suffix}").read_text(encoding="utf-8").splitlines()
        return title, [line.split("\t") for line in lines]

    def write(suffix, title, rows):
        lines = [title, *("\t".join(row) for row in rows)]
        (folder / f"ml-100k.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")

    title, events = read("inter")
    users, counts = np.unique([event[0] for event in events], return_counts=True)
    kept = set(users[counts <= 40][:100])
    events = [event for event in events if event[0] in kept]
    items = {event[1] for event in events}
    write("inter", title, events)
    for suffix, column in (("user", kept), ("item", items), ("link", items)):
        title, rows = read(suffix)
        write(suffix, title, [row for row in rows if row[0] in column])
    entities = {row[1] for row in read("link")[1] if row[0] in items}
    title, triples = read("kg")
    triples = [row for row in triples if row[0] in entities][::10]
    write("kg", title, triples)
    random = np.random.default_rng(0)
    for suffix, tokens in (
        ("ent", entities | {row[2] for row in triples}),
        ("rel", {row[1] for row in triples}),
    ):
        vectors = random.normal(size=(len(tokens), 64)).round(3).astype(str)
        rows = [[token, " ".join(vector)] for token, vector in zip(sorted(tokens), vectors, strict=True)]
        write(suffix, f"{suffix}_id:token\t{suffix}_emb:float_seq", rows)
    return base


def run(model, data_path, folder, *arguments, epochs=1):
    """Train through the command line. Returns the run's folder."""
    places = ["--dataset=ml-100k", f"--data_path={data_path}", f"--checkpoint_dir={folder}"]
    assert main([f"--model={model}", *places, f"--epochs={epochs}", *SMALL, *NEEDS.get(model, []), *arguments]) == 0
    (run_dir,) = folder.iterdir()
    return run_dir


def require_good_run(run_dir):
    result = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
    for metrics in (result["best_valid_result"], result["test_result"]):
        assert metrics and all(math.isfinite(value) for value in metrics.values())
    assert result["epochs"] == 1 and all(map(math.isfinite, result["train_loss"]))
    content = checkpoint.load(run_dir / "best.pth")
    assert content["state_dict"]
    require_plain(content)
    return result


def require_plain(value):
    if isinstance(value, dict):
        assert {type(key) for key in value} <= {str, int}
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            require_plain(item)
    else:
        assert value is None or type(value) in (str, int, float, bool, torch.Tensor), type(value)


def test_no_sequential_model_is_forgotten():
    files = (RECBOLE / "model/sequential_recommender").glob("*.py")
    assert {file.stem for file in files} - {"__init__"} == {name.lower() for name in SEQUENTIAL}


# These read users, targets, graphs or files of vectors when they score, which a history does not have.
RECOMMEND_NOTHING = {"DIEN", "DIN", "FEARec", "GRU4RecCPR", "GRU4RecKG", "KSR", "SASRecCPR", *OTHERS}


@pytest.mark.parametrize("model", [name for name in [*SEQUENTIAL, *OTHERS] if name != "S3Rec"])
def test_model_trains_evaluates_reloads_and_recommends(model, data_path, tmp_path):
    run_dir = run(model, data_path, tmp_path)
    result = require_good_run(run_dir)
    if model in RECOMMEND_NOTHING:
        with pytest.raises(UserError, match=r"not in a checkpoint|reads no histories|which a history"):
            Recommender.load(run_dir)
    else:
        require_ranks_of_evaluator(run_dir)
    assert result["model"] == model.removeprefix("recbole.")


def test_s3rec_trains_in_two_stages(data_path, tmp_path):
    before = run("S3Rec", data_path, tmp_path / "before", "--pretrain_epochs=1", "--save_step=1")
    weights = torch.load(before / "S3Rec-ml-100k-1.pth", weights_only=True)
    require_plain(weights)
    stage = ["--train_stage=finetune", f"--pre_model_path={before / 'S3Rec-ml-100k-1.pth'}"]
    after = run("S3Rec", data_path, tmp_path / "after", *stage)
    require_good_run(after)
    require_ranks_of_evaluator(after)
    trained = checkpoint.load(after / "best.pth")["state_dict"]
    assert torch.equal(trained["mip_norm.weight"], weights["state_dict"]["mip_norm.weight"])  # of pre-training only


def test_knowledge_aware_model_resumes_exactly(data_path, tmp_path):
    """Its loader is a pair, with a generator each."""
    whole = run("CKE", data_path, tmp_path / "whole", epochs=3)
    first = run("CKE", data_path, tmp_path / "first", epochs=1)
    assert main([f"--resume={first}", "--epochs=3"]) == 0
    expected, found = (checkpoint.load(folder / "last.pth") for folder in (whole, first))
    assert found["train_loss"] == expected["train_loss"]
    torch.testing.assert_close(found["state_dict"], expected["state_dict"], rtol=0, atol=0)


WITHOUT_DROPOUT = {
    "SASRec": ["--hidden_dropout_prob=0", "--attn_dropout_prob=0"],
    "GRU4RecF": ["--dropout_prob=0"],
    "KSR": ["--dropout_prob=0"],
}


# One for each kind of data set, loader and trainer. (DIN and DIEN draw other negatives in evaluation: ours draws the
# same ones each time. Of Pop's items many have equal scores, whose order is ours: tests/evaluation/test_ties.py.
# Dropout has other random numbers here.)
@pytest.mark.parametrize("model", ["SASRec", "GRU4RecF", "KSR", "BPR", "RecVAE", "LightGCN", "EASE", "CKE"])
def test_results_are_those_of_recboles_own_trainer(model, data_path, tmp_path, monkeypatch):
    no_dropout = WITHOUT_DROPOUT.get(model, [])
    ours = require_good_run(run(model, data_path, tmp_path, *no_dropout))
    monkeypatch.chdir(tmp_path)  # its trainer writes log_tensorboard/
    monkeypatch.setattr(sys, "argv", ["pytest"])
    same = ("metrics", "topk", "valid_metric", "eval_args", "train_neg_sample_args")
    values = parse_arguments(["--epochs=1", *SMALL, *NEEDS.get(model, []), *no_dropout])
    values |= {key: ours["config"][key] for key in same}
    config = recbole.config.Config(model, "ml-100k", config_dict=values | {"checkpoint_dir": str(tmp_path)})
    config["data_path"] = str(data_path / "ml-100k")
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = recbole.data.data_preparation(config, recbole.data.create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train._dataset))
    _, valid_result = trainer.fit(train, valid, saved=False, verbose=False)
    assert ours["train_loss"] == pytest.approx(list(trainer.train_loss_dict.values()), rel=1e-6)
    assert ours["best_valid_result"] == valid_result
    assert ours["test_result"] == trainer.evaluate(test, load_best_model=False)


@pytest.mark.parametrize("part", [slice(0, 25), slice(25, 40)])
def test_metrics_are_those_of_recboles_collector(part):
    at_k = ["Recall", "MRR", "NDCG", "Hit", "Precision", "MAP"]
    of_lists = ["ItemCoverage", "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage"]
    values = {"metrics": [*at_k, *of_lists, "GAUC"], "topk": [3, 10], "valid_metric": "MRR@10", "use_gpu": False}
    config = Config("Pop", "ml-100k", config_dict=values)
    rows, items = 40, 60
    random = torch.Generator().manual_seed(1)
    scores = torch.randn(rows, items, generator=random)  # of equal ones RecBole lists those that torch happens to
    positive = torch.rand(rows, items, generator=random) < 0.08
    positive[:, 0], positive[:, 1] = False, True  # each row has one at least
    seen = torch.rand(rows, items, generator=random) < 0.2
    scores[seen & ~positive] = scores[:, 0] = -torch.inf
    popularity = {item: item * item for item in range(1, items)}
    train = SimpleNamespace(dataset=SimpleNamespace(num=lambda field: items, item_counter=popularity))
    results = []
    for collector in (TopKCollector(config), Collector(config)):
        collector.data_collect(train)
        collector.tie_order = torch.arange(items)
        for batch in (part, slice(3, 9)):
            u, i = positive[batch].nonzero(as_tuple=True)
            collector.eval_batch_collect(scores[batch].clone(), {}, u, i)
        # RecBole's own get_data_struct() cannot copy what ItemCoverage and the others of its kind need.
        struct = collector.get_data_struct() if isinstance(collector, TopKCollector) else collector.data_struct
        results.append(Evaluator(config).evaluate(struct))
    assert len(results[0]) == 2 * 11 + 1
    assert results[0] == pytest.approx(results[1], abs=1e-12)


def built_model(name, data_path):
    """A new model without dropout, and a batch of training rows of 1 to 10 items."""
    needs = [*NEEDS.get(name, []), *(["--train_stage=pretrain"] if name == "S3Rec" else [])]
    config = Config(model=name, dataset="ml-100k", argv=[f"--data_path={data_path}", *SMALL, *needs])
    init_seed(1, True)
    train, *_ = create_loaders(config, create_dataset(config))
    model = config.model_class(config, train._dataset)
    if name == "S3Rec":  # fine-tuning would need a file
        model.train_stage, model.loss_fct = "finetune", torch.nn.CrossEntropyLoss()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model, next(iter(train))


def outcome(model, forward, batch):
    """Loss, gradients by parameter, and scores of a batch of training rows, with another `forward` of the class."""
    own, type(model).forward = type(model).forward, forward
    try:
        batch = batch[torch.arange(len(batch))]  # HRM changes the lengths in it
        loss = model.train().calculate_loss(batch)
        parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        gradients = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
        with torch.no_grad():
            scores = model.eval().full_sort_predict(batch).view(len(batch), -1)
    finally:
        type(model).forward = own
    return loss.detach(), dict(zip(parameters, gradients)), scores


@pytest.mark.parametrize("name", [name for name in SEQUENTIAL if name not in READ_PADDING])
def test_model_encodes_by_length_with_the_same_result(name, data_path, monkeypatch):
    model, batch = built_model(name, data_path)
    forward = type(model).forward
    monkeypatch.setattr(alike_lengths, "PLACES", {"cpu": 4})
    widths = set()
    looking_up = model.item_embedding.register_forward_hook(lambda _, given, out: widths.add(given[0].shape[-1]))
    found = outcome(model, forward, batch)
    assert len(widths & set(range(1, 11))) > 4
    looking_up.remove()
    expected = outcome(model, inspect.unwrap(forward), batch)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-5, atol=1e-6)
    assert found[1].keys() == expected[1].keys()
    for parameter, gradient in expected[1].items():
        torch.testing.assert_close(found[1][parameter], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in READ_PADDING if name not in ("DIEN", "DIN", "FPMC", "TransRec")])
def test_model_that_reads_padding_does(name, data_path, monkeypatch):
    model, batch = built_model(name, data_path)
    forward = type(model).forward
    assert not hasattr(forward, "encodes_by_length")
    monkeypatch.setattr(alike_lengths, "PLACES", {"cpu": 4})
    expected = outcome(model, forward, batch)
    try:
        found = outcome(model, alike_lengths.encodes_by_length(forward, lambda *_: True), batch)
    except (RuntimeError, IndexError, TypeError):
        return  # of layers of one width
    gradients = [(found[1][key], expected[1][key]) for key in expected[1] if expected[1][key] is not None]
    pairs = [(found[2], expected[2]), *gradients]
    assert any((a - b).abs().max() > 1e-3 * b.abs().max() for a, b in pairs if b.abs().max() > 1e-6)


@pytest.mark.parametrize("name", ["DIEN", "DIN"])
def test_model_that_normalises_over_rows_does(name, data_path):
    model, _ = built_model(name, data_path)
    assert any(isinstance(module, torch.nn.BatchNorm1d) for module in model.modules())


@pytest.mark.parametrize("name", ["FPMC", "TransRec"])
def test_model_of_the_last_item_reads_no_other(name, data_path):
    model, batch = built_model(name, data_path)
    expected = outcome(model, type(model).forward, batch)
    is_last = torch.arange(10) == batch[model.ITEM_SEQ_LEN].unsqueeze(1) - 1
    batch[model.ITEM_SEQ][~is_last] = 1
    found = outcome(model, type(model).forward, batch)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[2], expected[2])


@pytest.mark.parametrize("mask_rows", [1, 7])
def test_fused_attention_is_recboles(mask_rows):
    torch.manual_seed(0)
    layer = MultiHeadAttention(2, 8, 0.5, 0.5, 1e-12).eval()
    x = torch.randn(3, 7, 8)
    mask = torch.where(torch.rand(3, 1, mask_rows, 7) < 0.4, -10000.0, 0.0)
    mask[0] = -10000.0  # a row that may look at nothing
    query, key, value = (linear(x).view(3, 7, 2, 4).transpose(1, 2) for linear in (layer.query, layer.key, layer.value))
    weights = (query @ key.transpose(2, 3) / math.sqrt(4) + mask).softmax(-1)
    plain = layer.LayerNorm(layer.dense((weights @ value).transpose(1, 2).reshape(3, 7, 8)) + x)
    torch.testing.assert_close(layer(x, mask), plain, rtol=1e-5, atol=2e-6)


def test_sasrec_gives_the_last_position_of_the_whole_encoder():
    torch.manual_seed(0)
    config = Config(
        model="SASRec", dataset="ml-100k", config_dict={"hidden_size": 16, "inner_size": 32, "use_gpu": False}
    )
    model = SASRec(config, SimpleNamespace(num=lambda field: 30)).eval()
    item_seq_len = torch.tensor([1, 4, 10])
    item_seq = torch.randint(1, 30, (3, 10)) * (torch.arange(10) < item_seq_len.unsqueeze(1))
    positions = model.position_embedding(torch.arange(10))
    x = model.LayerNorm(model.item_embedding(item_seq) + positions)
    every = model.trm_encoder(x, model.get_attention_mask(item_seq))[-1]
    expected = every[torch.arange(3), item_seq_len - 1]
    torch.testing.assert_close(model(item_seq, item_seq_len), expected, rtol=1e-5, atol=1e-5)


def test_fused_gelu_is_recboles():
    layer = FeedForward(8, 16, 0.5, "gelu", 1e-12).eval()
    x = torch.randn(1000) * 4
    torch.testing.assert_close(layer.intermediate_act_fn(x), x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))))


@pytest.mark.parametrize("batch_size", [7, 2048])
def test_pop_counts_every_interaction(batch_size):
    items = torch.tensor([1, 3, 3, 3, 2, 3, 1, 1, 3, 2])
    config = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "NEG_PREFIX": "neg_", "device": "cpu"}
    model = get_model("Pop")(config, SimpleNamespace(num=lambda field: 5))
    for batch in items.split(batch_size):
        model.calculate_loss({"item_id": batch}).backward()
    assert model.item_cnt.flatten().tolist() == [0, 3, 2, 5, 0] and model.max_cnt == 5
    scores = model.full_sort_predict({"user_id": torch.tensor([1, 2])}).view(2, 5)
    assert scores.tolist() == [[0, 0.6, 0.4, 1, 0]] * 2


def test_pop_counts_no_sampled_items(run):
    """RecBole mixes one sampled item for each real one into the batches of Pop, and Pop has counted them."""
    folder = run("Pop")["run_dir"]
    loaded = quick_start.load(folder)
    items = loaded.train._dataset.inter_feat["item_id"]
    assert loaded.model.item_cnt.flatten().tolist() == torch.bincount(items, minlength=41).tolist()


def test_dok_matrix_updates_without_adding():
    matrix = dok_matrix((2, 3), dtype=np.float32)
    matrix._update({(0, 1): 1.0, (1, 2): 2.0})
    matrix._update({(0, 1): 5.0})
    assert matrix.toarray().tolist() == [[0, 5, 0], [0, 0, 2]]


def test_anomaly_detection_is_off():
    assert "recbole.model.sequential_recommender.sine" in sys.modules
    assert not torch.is_anomaly_enabled()


def test_prefix_reaches_recboles_model():
    ours, theirs = registry.resolve_model("DreamRec"), registry.resolve_model("recbole.DiffRec")
    assert ours.model_class.__module__ == "recbole_gen.model.dreamrec" and not ours.is_recbole
    assert theirs.model_class.__module__ == "recbole.model.general_recommender.diffrec" and theirs.is_recbole


@pytest.mark.parametrize("visible", [None, "", "2,3"])
def test_config_leaves_the_visible_devices_alone(visible, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    Config("Pop", "ml-100k", config_dict={"gpu_id": 0, "use_gpu": False})
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_use_gpu_and_gpu_id_choose_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    for values, device in (({"use_gpu": False}, "cpu"), ({}, "cuda:0"), ({"gpu_id": 1}, "cuda:1")):
        config = Config("Pop", "ml-100k", config_dict=values)
        assert config["device"] == torch.device(device)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
