"""Rows in groups of alike lengths: which groups, and that nobody can tell from the result."""

import copy
import io
import pickle

import pytest
import torch
from conftest import ON_ML_100K, SMALL
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender import GRU4Rec, SASRec
from stubs import Config, Items
from torch import nn

from recbole_gen import quick_start
from recbole_gen.config.config import Config as FullConfig
from recbole_gen.config.registry import MODELS
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.data.semantic_ids import attach_semantic_ids
from recbole_gen.errors import UserError
from recbole_gen.model import alike_lengths
from recbole_gen.model.alike_lengths import (
    encode_by_length,
    encode_class_by_length,
    looked_up_once,
    split_by_length,
    used_lengths,
)


def sizes(groups, n):
    """Rows of each group; the groups are all of n rows."""
    assert [row for group in groups for row in range(n)[group]] == list(range(n))
    return [group.stop - group.start for group in groups]


@pytest.mark.parametrize(
    ("lengths", "places", "most_rows", "expected"),
    [
        ([], 8, None, []),
        ([5], 8, None, [1]),
        ([50] * 100, 8, None, [100]),  # nothing to gain
        ([1] * 10 + [10] * 10, 8, None, [10, 10]),
        ([1] * 10 + [10] * 10, 100, None, [10, 10]),
        ([1] * 10 + [10] * 10, 150, None, [5, 15]),
        ([1, 1, 10], 30, None, [3]),
        ([8, 9, 10, 11, 12, 13], 0, None, [6]),  # groups would save less than they cost
        ([1] * 20 + [8, 9, 10, 11, 12, 13], 0, None, [20, 2, 4]),
        ([5] * 10, 8, 4, [2, 4, 4]),
        ([1] * 3 + [5] * 5, 8, 4, [3, 1, 4]),
    ],
)
def test_groups_are_of_alike_lengths_or_small(lengths, places, most_rows, expected):
    assert sizes(split_by_length(lengths, places, most_rows), len(lengths)) == expected


def test_groups_save_most_of_the_padding():
    torch.manual_seed(0)
    lengths = (torch.distributions.Geometric(0.1).sample((2000,)) + 1).clamp(max=50).int().sort().values.tolist()
    groups = split_by_length(lengths, 256)
    computed = sum((group.stop - group.start) * lengths[group.stop - 1] for group in groups)
    assert sum(lengths) <= computed < 1.25 * sum(lengths) < 0.3 * 50 * len(lengths)
    assert len(groups) < 30


def test_length_is_the_last_place_that_is_used():
    item_seq = torch.tensor([[3, 4, 0, 0], [0, 0, 7, 0], [0, 0, 0, 0], [1, 2, 3, 4]])
    assert used_lengths(item_seq).tolist() == [2, 3, 1, 4]


@pytest.mark.parametrize("n", [0, 1, 2, 300])
def test_rows_come_back_in_their_order_with_their_own_columns(n):
    torch.manual_seed(0)
    length = torch.randint(1, 30, (n,))
    numbers = torch.arange(n)
    history = torch.where(torch.arange(30) < length.unsqueeze(1), numbers.unsqueeze(1) + 1.0, 0.0)
    times = history.unsqueeze(-1) * torch.tensor([1.0, 2.0])
    widths = []

    def encode(history, times, number):
        widths.append(history.shape[1])
        assert history.shape == times.shape[:2]
        return torch.stack([history.sum(1), times.sum((1, 2)), number.float()], dim=1)

    found = encode_by_length(encode, length, [history, times], [numbers])
    expected = torch.stack([history.sum(1), 3 * history.sum(1), numbers.float()], dim=1)
    torch.testing.assert_close(found, expected)
    assert max(widths) == max(length.tolist(), default=1)
    assert (len(widths) > 1) == (n == 300)


def test_table_is_read_once_and_gets_one_gradient():
    torch.manual_seed(0)
    table, ids = nn.Embedding(50, 4, padding_idx=0), torch.randint(0, 20, (6, 5))
    weight = torch.randn(6, 5, 4)
    (table(ids) * weight).sum().backward()
    expected, table.weight.grad = table.weight.grad, None
    reads = []
    handle = table.weight.register_hook(lambda gradient: reads.append(gradient.shape))
    with looked_up_once(table, ids):
        total = sum((table(ids[row]) * weight[row]).sum() for row in range(6))
        assert torch.equal(table(torch.tensor([40])), table.weight[40:41])  # an id of no history
    total.backward()
    handle.remove()
    torch.testing.assert_close(table.weight.grad, expected)
    assert expected[0].count_nonzero() == 0
    assert reads == [(50, 4)] and "forward" not in vars(table)
    with pytest.raises(ZeroDivisionError), looked_up_once(table, ids):
        raise ZeroDivisionError
    assert torch.equal(table(ids), table.weight[ids]) and "forward" not in vars(table)


SETTINGS = {
    "MAX_ITEM_LIST_LENGTH": 30, "ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_",
    "USER_ID_FIELD": "user_id", "ITEM_LIST_LENGTH_FIELD": "item_length", "device": "cpu", "loss_type": "CE",
    "hidden_size": 8, "embedding_size": 8, "inner_size": 8, "n_layers": 2, "n_heads": 2, "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "initializer_range": 0.5,
    "dropout_prob": 0.0, "num_layers": 1,
}  # fmt: skip


def histories(n=400, width=30):
    """Ids of items 1 to 19 and lengths, most of them short."""
    length = (torch.distributions.Geometric(0.3).sample((n,)).long() + 1).clamp(max=width)
    return torch.randint(1, 20, (n, width)) * (torch.arange(width) < length.unsqueeze(1)), length


def own_model(base=SequentialRecommender, **attributes):
    """A class of the user's own: the mean of a history's items, weighted by distance from its end."""

    class Own(base):
        def __init__(self, config, dataset):
            super().__init__(config, dataset)
            self.item_embedding = nn.Embedding(self.n_items, 8, padding_idx=0)
            self.widths = []

        def forward(self, item_seq, item_seq_len, user=None):
            self.widths.append(item_seq.shape[1])
            distance = item_seq_len.unsqueeze(1) - torch.arange(item_seq.shape[1])
            mean = (self.item_embedding(item_seq) / (distance.clamp(min=0) + 1).unsqueeze(-1)).sum(1)
            return mean if user is None else mean * user.unsqueeze(1)

    for name, value in attributes.items():
        setattr(Own, name, value)
    return Own


def test_class_of_the_users_own_says_that_it_ignores_padding():
    torch.manual_seed(0)
    item_seq, length = histories()
    user = torch.randn(400)
    plain, told = own_model(), own_model(ignores_padding=True)
    for model_class in (plain, told, told):
        encode_class_by_length(model_class)
    models = [model_class(Config(SETTINGS), Items(20)) for model_class in (plain, told)]
    models[1].load_state_dict(models[0].state_dict())
    for named in ({}, {"user": user}):
        torch.testing.assert_close(models[0](item_seq, length, **named), models[1](item_seq, length, **named))
    torch.testing.assert_close(models[0](item_seq, length, user), models[1](item_seq, item_seq_len=length, user=user))
    assert set(models[0].widths) == {30} and len(set(models[1].widths)) > 3


@pytest.mark.parametrize("base", [GRU4Rec, SASRec])
def test_class_that_inherits_from_one_of_recboles_is_asked_first(base):
    class Wide(base):
        """Reads the width."""

        def get_attention_mask(self, item_seq, bidirectional=False):
            self.width = item_seq.shape[1]
            return super().get_attention_mask(item_seq, bidirectional)

        def gather_indexes(self, output, gather_index):
            self.width = output.shape[1]
            return super().gather_indexes(output, gather_index)

    class Told(Wide):
        ignores_padding = True

    item_seq, length = histories()
    for model_class, widths in ((Wide, {30}), (Told, set(range(1, 29)))):
        encode_class_by_length(model_class)
        model = model_class(Config(SETTINGS), Items(20))
        model(item_seq, length)
        assert model.width in widths
    assert not hasattr(vars(Wide).get("forward"), "encodes_by_length")


def test_class_that_takes_no_histories_cannot_ignore_their_padding():
    class Own(SequentialRecommender):
        ignores_padding = True

        def forward(self, interaction):
            return interaction

    with pytest.raises(UserError, match=r"forward takes no histories.*item_seq"):
        encode_class_by_length(Own)


def test_run_encodes_a_class_of_the_users_own_by_length(run, custom):
    custom.Custom.ignores_padding = True
    custom.Custom.forward = lambda self, item_seq: self.item_embedding(item_seq).sum(1)
    run("custom:Custom", epochs=1)
    assert custom.Custom.forward.encodes_by_length


@pytest.mark.parametrize("model_class", [GRU4Rec, SASRec])
def test_models_can_be_copied_pickled_and_called_functionally(model_class):
    torch.manual_seed(0)
    model = model_class(Config(SETTINGS), Items(20)).eval()
    item_seq, length = histories()
    expected = model(item_seq, length)
    assert not any("forward" in vars(module) for module in model.modules())
    torch.testing.assert_close(copy.deepcopy(model)(item_seq, length), expected)
    file = io.BytesIO()
    pickle.dump(model, file)
    file.seek(0)
    torch.testing.assert_close(pickle.load(file)(item_seq, length), expected)
    doubled = {name: 2 * each for name, each in model.named_parameters()}
    found = torch.func.functional_call(model, doubled, (item_seq, length))
    other = copy.deepcopy(model)
    other.load_state_dict(doubled)
    torch.testing.assert_close(found, other(item_seq, length))


NO_DROPOUT = ("dropout_prob", "emb_dropout_prob", "adv_dropout_prob", "hidden_dropout_prob", "attn_dropout_prob")
LATER = {"DreamRec": "dreamrec", "PASRec": "pasrec", "PreferDiff": "pasrec"}  # whose encoder has its own PLACES


@pytest.mark.parametrize("name", MODELS)
def test_our_models_give_the_same_in_groups_and_in_one_piece(name, monkeypatch):
    values = {
        "use_gpu": False,
        "train_batch_size": 256,
        "MAX_ITEM_LIST_LENGTH": 50,
        **SMALL[name],
        **ON_ML_100K.get(name, {}),
    }
    plain = FullConfig(model=name, dataset="ml-100k", config_dict=values)
    config = FullConfig(
        model=name, dataset="ml-100k", config_dict=values | {key: 0.0 for key in NO_DROPOUT if plain[key] is not None}
    )
    train, *_ = create_loaders(config, create_dataset(config))
    rows = train._dataset.inter_feat
    batch = rows[torch.argsort(rows.history_length)[:: len(rows) // 300]]  # of all lengths
    attach_semantic_ids(config, train._dataset)
    model = config.model_class(config, train._dataset)
    outcomes = []
    for places in (8, 10**9):
        monkeypatch.setattr(alike_lengths, "PLACES", {"cpu": places})
        if name in LATER:
            monkeypatch.setattr(f"recbole_gen.model.{LATER[name]}.PLACES", places)
        torch.manual_seed(0)
        model.train().zero_grad()
        terms = model.calculate_loss(batch)
        loss = sum(terms) if isinstance(terms, tuple) else terms
        loss.backward()
        gradients = {key: each.grad for key, each in model.named_parameters() if each.grad is not None}
        with torch.no_grad():
            outcomes.append((loss.detach(), gradients, model.eval().full_sort_predict(batch)))
        if name == "DiffRec":
            model.steps.losses.zero_(), model.steps.counts.zero_()
    (loss, gradients, scores), (expected, whole, of_whole) = outcomes
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scores, of_whole, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == whole.keys()
    for key, gradient in whole.items():
        assert (gradients[key] - gradient).abs().max() <= 1e-4 * gradient.abs().max() + 1e-6, key


def test_a_request_of_one_row_is_neither_sorted_nor_copied():
    item_seq, length = histories(1)
    calls = []
    encode_by_length(lambda *given: calls.append(given) or torch.zeros(1, 2), length, [item_seq], [length])
    ((cut, lengths),) = calls
    assert cut.shape == (1, int(length)) and cut.data_ptr() == item_seq.data_ptr() and lengths is length


def test_groups_take_no_more_memory_than_the_batch(monkeypatch):
    """What the backward pass keeps."""
    torch.manual_seed(0)
    model = SASRec(Config(SETTINGS), Items(20)).train()
    item_seq, length = histories()
    kept = []
    for least in (256, 10**9):
        monkeypatch.setattr(alike_lengths, "PLACES", {"cpu": least})
        total = [0]

        def pack(tensor, total=total):
            total[0] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(item_seq, length).sum().backward()
        kept.append(total[0])
    assert kept[0] < kept[1] / 3


def test_saved_run_gives_the_scores_of_its_training(run):
    folder = run("SASRec", epochs=1)["run_dir"]
    loaded = quick_start.load(folder)
    batch = next(iter(loaded.train))
    with torch.no_grad():
        found = loaded.model.full_sort_predict(batch)
        rows = [loaded.model.full_sort_predict(batch[torch.tensor([row])]) for row in range(len(batch))]
    torch.testing.assert_close(found, torch.cat(rows), rtol=1e-5, atol=1e-6)
