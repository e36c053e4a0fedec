import pytest
import torch

from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.data.rows import training_item_counts
from recbole_gen.errors import UserError


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


START = 1_390_000_001  # seconds, which have no place in 32-bit numbers
LINES = {"train": [("a", "1 2 3 4", "5"), ("b", "6", "7"), ("c", "8 9 2", "1")], "valid": [("d", "2 3", "4")]}


@pytest.fixture
def split_files(tmp_path):
    """split_files(lines of the training file) -> settings of a data set in split files, with times 10, 20, ..."""

    def write(train):
        folder = tmp_path / "lines"
        folder.mkdir()
        for part, lines in {"train": train, "valid": LINES["valid"], "test": LINES["valid"]}.items():
            text = (
                "session_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp_list:float_seq\ttimestamp:float\n"
            )
            for user, history, target in lines:
                times = [str(START + 10 * n) for n in range(1, len(history.split()) + 2)]
                text += f"{user}\t{history}\t{target}\t{' '.join(times[:-1])}\t{times[-1]}\n"
            (folder / f"lines.{part}.inter").write_text(text)
        values = {"USER_ID_FIELD": "session_id", "protocol": "benchmark", "positions_batch_size": 2}
        return {"dataset": "lines", "data_path": str(tmp_path), **values}

    return write


def test_prefixes_of_split_files_are_rows_of_their_own(split_files, make_config):
    values = split_files(LINES["train"])
    config = make_config("SASRec", train_pairs="prefixes", MAX_ITEM_LIST_LENGTH=2, train_batch_size=3, **values)
    dataset = create_dataset(config)
    train = create_loaders(config, dataset)[0]
    found = []
    for batch in train:
        for user, history, times, target, time in zip(
            *(batch[name].tolist() for name in ("session_id", "item_id_list", "timestamp_list", "item_id", "timestamp"))
        ):
            tokens = [dataset.id2token("item_id", item) for item in history if item]
            user, *tokens = dataset.id2token("session_id", user), *tokens, dataset.id2token("item_id", target)
            seconds = [each - START for each in (*filter(None, times), time)]
            found.append((str(user), *map(str, tokens), *seconds))
    assert set(found) == {
        ("a", "1", "2", 10, 20), ("a", "1", "2", "3", 10, 20, 30), ("a", "2", "3", "4", 20, 30, 40),
        ("a", "3", "4", "5", 30, 40, 50), ("b", "6", "7", 10, 20), ("c", "8", "9", "2", 10, 20, 30),
        ("c", "8", "9", 10, 20), ("c", "9", "2", "1", 20, 30, 40),
    } and len(found) == 8  # fmt: skip


def test_positions_of_split_files_are_those_of_their_prefixes(split_files, make_config):
    values = split_files(LINES["train"]) | {"MAX_ITEM_LIST_LENGTH": 4}
    config = make_config("SASRec", train_pairs="positions", **values)
    train = create_loaders(config, create_dataset(config))[0]
    rows = train._dataset.inter_feat[:]
    wanted = {
        (tuple(history[:length]), target)
        for history, length, target in zip(
            rows["item_id_list"].tolist(), rows["item_length"].tolist(), rows["item_id"].tolist()
        )
    }
    assert set(targets_of_an_epoch(train)) == wanted and len(wanted) == 8


@pytest.mark.parametrize("kept", ["prefixes", "positions"])
def test_lines_that_may_be_prefixes_already_are_refused(split_files, make_config, kept):
    values = split_files([*LINES["train"], ("a", "1 2", "3")])
    config = make_config("SASRec", train_pairs=kept, **values)
    with pytest.raises(UserError, match=f"train_pairs: {kept} .* several lines of 1 user, "):
        create_loaders(config, create_dataset(config))


def test_lines_without_a_history_are_rows_of_prefixes_and_no_windows(split_files, make_config):
    values = split_files([*LINES["train"], ("e", "", "9")])
    config = make_config("SASRec", train_pairs="prefixes", **values)
    train = create_loaders(config, create_dataset(config))[0]
    rows = train._dataset.inter_feat
    assert len(rows) == 9 and rows.history_length.tolist().count(0) == 1
    config = make_config("SASRec", train_pairs="positions", **values)
    with pytest.raises(UserError, match="1 line of the training file have none: use train_pairs: prefixes"):
        create_loaders(config, create_dataset(config))


def test_how_often_an_item_occurs_in_split_files_is_not_what_is_read_of_them(split_files, make_config):
    values, counted = split_files(LINES["train"]), set()
    for changes in ({}, {"MAX_ITEM_LIST_LENGTH": 2}, {"train_pairs": "prefixes", "MAX_ITEM_LIST_LENGTH": 1}):
        config = make_config("SASRec", **values, **changes)
        dataset = create_dataset(config)
        counts = training_item_counts(create_loaders(config, dataset)[0]._dataset)
        counted.add(tuple(int(counts[dataset.token2id("item_id", token)]) for token in "123456789"))
    assert counted == {(2, 2, 1, 1, 1, 1, 1, 1, 1)}
