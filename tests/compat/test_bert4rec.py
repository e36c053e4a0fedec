"""RecBole's BERT4Rec learns every item that it masks, and reads every item that there is room for."""

import random

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.data.transform import MaskItemSequence

from recbole_gen.data.loaders import create_dataset, create_loaders

L = 6


@pytest.fixture
def model(make_config, walks):
    """BERT4Rec without dropout, and its data set."""

    def make(**values):
        small = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": L}
        dropout = dict.fromkeys(("hidden_dropout_prob", "attn_dropout_prob"), 0.0)
        config = make_config("BERT4Rec", topk=[5], valid_metric="NDCG@5", **small, **dropout, **values)
        train, *_ = create_loaders(config, create_dataset(config))
        torch.manual_seed(0)
        return config.model_class(config, train.dataset).eval(), train.dataset, config

    return make


def histories(*lists) -> Interaction:
    items = torch.tensor([[*each, *[0] * (L - len(each))] for each in lists])
    return Interaction({"item_id_list": items, "item_length": torch.tensor([len(each) for each in lists])})


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.8])
def test_every_masked_item_has_a_target(ratio, model):
    _, dataset, config = model(mask_ratio=ratio, ft_ratio=0)
    draw = random.Random(0)
    lists = [draw.sample(range(1, dataset.item_num), draw.randint(1, L)) for _ in range(300)]
    random.seed(0)
    given = histories(*lists)
    masked = MaskItemSequence(config)(dataset, given)
    is_masked = masked["Mask_item_id_list"] == dataset.item_num
    assert (is_masked.sum(1) == (masked["Pos_item_id"] > 0).sum(1)).all()
    share = is_masked.sum().item() / sum(map(len, lists))
    assert abs(share - ratio) < 0.05
    for row, (places, items) in enumerate(zip(masked["MASK_INDEX"], masked["Pos_item_id"])):
        for place, item in zip(places[items > 0], items[items > 0]):
            assert item == lists[row][place] and is_masked[row, place]


@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_the_loss_is_the_mean_over_all_targets_the_first_places_too(loss_type, model):
    bert, *_ = model(loss_type=loss_type)
    mask = bert.mask_token
    rows = histories([1, 2, 3], [4], [5, 6])
    masked = torch.tensor([[mask, 2, mask, 0, 0, 0], [mask, 0, 0, 0, 0, 0], [5, 6, 0, 0, 0, 0]])
    fields = {
        "Mask_item_id_list": masked, "MASK_INDEX": [[0, 2], [0, 0], [0, 0]],
        "Pos_item_id": [[1, 3], [0, 4], [0, 0]], "Neg_item_id": [[7, 8], [0, 9], [0, 0]],
    }  # fmt: skip
    rows.update(Interaction({name: torch.as_tensor(value) for name, value in fields.items()}))
    states = bert.forward(masked)
    table, bias = bert.item_embedding.weight, bert.output_bias
    losses = []
    for row, place, item, other in ((0, 0, 1, 7), (0, 2, 3, 8), (1, 0, 4, 9)):
        scores = table[: bert.n_items] @ states[row, place] + bias
        losses.append(
            -F.logsigmoid(scores[item] - scores[other]) if loss_type == "BPR" else -scores.log_softmax(0)[item]
        )
    torch.testing.assert_close(bert.calculate_loss(rows), torch.stack(losses).mean())
    rows.update(Interaction({"Pos_item_id": torch.zeros(3, 2, dtype=torch.int64)}))
    assert bert.calculate_loss(rows).item() == 0


def test_a_history_keeps_its_first_item_where_there_is_room_for_the_mask(model):
    bert, *_ = model()
    mask = bert.mask_token
    lists = [[1], [1, 2], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]]
    read = [[1, mask], [1, 2, mask], [1, 2, 3, 4, 5, mask], [2, 3, 4, 5, 6, mask]]
    scores = bert.full_sort_predict(histories(*lists))
    for given, found in zip(read, scores):
        state = bert.forward(torch.tensor([[*given, *[0] * (L - len(given))]]))[0, len(given) - 1]
        torch.testing.assert_close(found, bert.item_embedding.weight[: bert.n_items] @ state + bert.output_bias)
    rows = histories(*lists)
    rows.update(Interaction({"item_id": torch.tensor([3, 4, 5, 6])}))
    torch.testing.assert_close(bert.predict(rows), scores[torch.arange(4), torch.tensor([3, 4, 5, 6])])
    changed = bert.full_sort_predict(histories(*([7, *each[1:]] for each in lists)))
    assert (changed - scores).abs().amax(1).gt(1e-6).tolist() == [True, True, True, False]
