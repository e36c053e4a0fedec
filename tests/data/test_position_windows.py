import pytest
import torch

from recbole_gen.data.loaders import create_dataset, create_loaders


@pytest.fixture
def train_of(write_atomic, make_config):
    """train_of(events of each user, **values) -> training loader; user u's event n is item `u.n`."""

    def build(sizes, **values):
        users = [u for u, size in enumerate(sizes) for _ in range(size)]
        items = [f"{u}.{n}" for u, size in enumerate(sizes) for n in range(size)]
        write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": range(len(users))})
        config = make_config(
            "SASRec", train_pairs="positions", protocol="leave_one_out", **{"positions_batch_size": 3, **values}
        )
        return create_loaders(config, create_dataset(config))[0]

    return build


def targets_of_an_epoch(train):
    """(history, target) of every position, as numbers of items."""
    found = []
    for batch in train:
        items, following = batch["item_id_list"], batch["next_item_id_list"]
        assert batch["item_length"].tolist() == sorted(batch["item_length"].tolist(), reverse=True)
        for window, after, length in zip(items.tolist(), following.tolist(), batch["item_length"].tolist()):
            assert all(window[:length]) and not any(window[length:]) and not any(after[length:])
            found += [(tuple(window[: place + 1]), after[place]) for place in range(length) if after[place]]
    return found


def test_each_event_but_the_first_is_a_target_once_an_epoch(train_of):
    train = train_of([30, 4, 11, 3, 25], MAX_ITEM_LIST_LENGTH=5)
    rows = train._dataset.inter_feat
    wanted = sorted(rows["item_id"].tolist())
    epochs = [targets_of_an_epoch(train) for _ in range(6)]
    for found in epochs:
        assert sorted(target for _, target in found) == wanted
        for history, target in found:  # items are numbered in the order of the log, which is that of each user's time
            assert len(history) <= 5 and history == tuple(range(target - len(history), target))
    lengths = [{target: len(history) for history, target in found} for found in epochs]
    assert len({tuple(sorted(each.items())) for each in lengths}) > 1  # windows begin elsewhere in every epoch


def test_a_history_that_fits_is_one_window(train_of):
    train = train_of([9, 4, 11, 3, 25], MAX_ITEM_LIST_LENGTH=50)
    found = {target: history for history, target in targets_of_an_epoch(train)}
    rows = train._dataset.inter_feat[:]
    for target, history, length in zip(rows["item_id"].tolist(), rows["item_id_list"].tolist(), rows["item_length"]):
        assert found[target] == tuple(history[: int(length)])


def test_positions_of_a_long_history_are_used_evenly(train_of):
    train = train_of([203, 4, 4], MAX_ITEM_LIST_LENGTH=10)
    lengths = [len(history) for _ in range(40) for history, target in targets_of_an_epoch(train) if target > 30]
    counts = torch.bincount(torch.tensor(lengths), minlength=11)[1:]
    assert counts.min() > 0.7 * counts.float().mean() and counts.max() < 1.3 * counts.float().mean()


def test_every_epoch_has_as_many_batches(train_of):
    train = train_of([37, 4, 61, 3, 25, 80], MAX_ITEM_LIST_LENGTH=7, positions_batch_size=4)
    assert {sum(1 for _ in train) for _ in range(8)} == {len(train)}


def test_an_epoch_depends_on_the_state_of_its_generator_alone(train_of):
    train = train_of([37, 4, 61, 3, 25], MAX_ITEM_LIST_LENGTH=7)
    list(train)
    state = train.generator.get_state()
    wanted = targets_of_an_epoch(train)
    train.generator.set_state(state)
    assert targets_of_an_epoch(train) == wanted


def test_columns_beside_the_items_move_along(write_atomic, make_config):
    times = [10, 20, 30, 40, 50, 11, 21, 31, 41]
    write_atomic({"user_id:token": list("aaaaabbbb"), "item_id:token": range(9), "timestamp:float": times})
    config = make_config("SASRec", train_pairs="positions", protocol="leave_one_out", positions_batch_size=8)
    (batch,) = create_loaders(config, create_dataset(config))[0]
    assert batch["timestamp_list"].tolist() == [[10, 20], [11, 0]]
    assert batch["next_timestamp_list"].tolist() == [[20, 30], [21, 0]]
    assert batch["item_length"].tolist() == [2, 1] and len(batch["user_id"]) == 2


def test_validation_and_test_events_are_no_targets(train_of):
    train = train_of([30, 4, 11], MAX_ITEM_LIST_LENGTH=5)
    held_out = {29, 30, 33, 34, 44, 45}  # the last two of each user, counted from 1
    assert not held_out & {target for _, target in targets_of_an_epoch(train)}
    assert not held_out & {item for history, _ in targets_of_an_epoch(train) for item in history}
