"""`cold_items`: training rows are those of a log without the events of the items that are held out, whatever trains."""

import random

import pytest
import torch
from conftest import SMALL

from recbole_gen import quick_start
from recbole_gen.checkpoint import load
from recbole_gen.data.cold_items import drawn_items
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.data.rows import training_item_counts, training_pairs_of_items
from recbole_gen.evaluation.ties import tie_order

ITEMS, DAY = 34, 86400


def walk_log(change=None):
    """(user, item, time, scene) of 40 users who walk over 34 items; u0 and u1 meet all of them, in order.
    ``change(user, step, length, item)`` may put another item in place of one."""
    draw, rows = random.Random(0), []
    for user in range(40):
        length = ITEMS // 2 if user < 2 else draw.randrange(5, 14)
        item = user * ITEMS // 2 if user < 2 else draw.randrange(ITEMS)
        for step in range(length):
            at = 40 * step + user
            put = item if change is None else change(user, step, length, item)
            rows.append((f"u{user}", f"i{put}", DAY * at, f"s{put % 3}"))
            item = (item + 1) % ITEMS if user < 2 or draw.random() < 0.7 else draw.randrange(ITEMS)
    return rows


@pytest.fixture
def write_walks(write_atomic):
    def write(rows):
        names = ("user_id:token", "item_id:token", "timestamp:float", "scene:token")
        write_atomic(dict(zip(names, zip(*rows))))

    write(walk_log())
    return write


@pytest.fixture
def build(make_config, write_walks):
    """build(model, **values) -> the data set and its three parts."""

    def made(model="SASRec", **values):
        dataset = create_dataset(make_config(model, **values))
        return dataset, dataset.build()

    return made


def names_of(dataset, mask) -> list[str]:
    return [dataset.field2id_token["item_id"][item] for item in mask.nonzero().flatten().tolist()]


# Which items


def test_the_draw_is_of_names_and_seed_alone(build, write_walks):
    def drawn(**values):
        dataset, _ = build(cold_items=0.2, **values)
        mask = drawn_items(dataset)
        assert mask.sum() == 7 and not mask[0]
        return set(names_of(dataset, mask))

    first = drawn()
    assert drawn(seed=1) != first
    write_walks(sorted(walk_log(), key=lambda row: (row[1], row[0])))
    assert drawn() == first
    dataset, _ = build()
    order = tie_order(dataset.field2id_token["item_id"], dataset.config["seed"])
    assert first != {dataset.field2id_token["item_id"][item] for item in (order < 7).nonzero().flatten()}
    assert drawn_items(dataset) is None


# Which rows

PROTOCOLS = {
    "leave_one_out": {}, "time_811": {}, "sequence_811": {"sequence_order": "shuffle"}, "holdout_82": {}, "period": {},
    "RS": {"eval_args": {"split": {"RS": [8, 1, 1]}, "order": "TO"}},
    "TS": {"eval_args": {"split": {"TS": [8, 1, 1]}, "order": "TO"}},
}  # fmt: skip


def protocol_values(name):
    return PROTOCOLS[name] if "eval_args" in PROTOCOLS[name] else {"protocol": name, **PROTOCOLS[name]}


def rows_of(dataset, part):
    """(user, time of the target, items of the history, target) of each row, in names."""
    rows, tokens = part.inter_feat[:], dataset.field2id_token
    items = [[str(tokens["item_id"][i]) for i in row if i] for row in rows["item_id_list"].tolist()]
    users = [str(tokens["user_id"][user]) for user in rows["user_id"].tolist()]
    targets = [str(tokens["item_id"][item]) for item in rows["item_id"].tolist()]
    return list(zip(users, rows["timestamp"].tolist(), map(tuple, items), targets))


@pytest.mark.parametrize("empty_history", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_training_rows_are_those_without_the_cold_events(build, protocol, empty_history):
    values = {**protocol_values(protocol), "empty_history": empty_history, "MAX_ITEM_LIST_LENGTH": 4}
    whole, every = build(**values)
    dataset, parts = build(cold_items=0.2, **values)
    cold = set(names_of(dataset, drawn_items(dataset)))
    expected, log = [], {}
    for user, item, time, _ in walk_log():
        log.setdefault(user, []).append((item, time))
    for user, time, history, target in rows_of(whole, every[0]):
        before = [item for item, when in log[user] if when < time and item not in cold]
        if target not in cold and (before or not history or empty_history):
            expected.append((user, time, tuple(before[-4:]), target))
    assert rows_of(dataset, parts[0]) == expected != rows_of(whole, every[0])
    for phase in (1, 2):  # what is tested, and on which histories, is as it was
        assert rows_of(dataset, parts[phase]) == rows_of(whole, every[phase])
    counts = training_item_counts(every[0])
    gone = drawn_items(dataset)
    assert parts[0].cold_events == counts[gone].sum() > 0
    assert torch.equal(training_item_counts(parts[0]), counts.masked_fill(gone, 0))
    pairs = training_pairs_of_items(parts[0].inter_feat, "item_id", "item_id_list", "item_length")
    assert not gone[torch.cat(pairs)].any()


PERIOD = {"protocol": "period", "period_start": DAY * 200}


@pytest.mark.parametrize(
    ("protocol", "pairs"),
    [*((p, t) for p in PROTOCOLS for t in ("last", "window")), ("period", "cut"), ("period", "after")],
)
def test_pairs_are_chosen_among_the_rows_that_are_left(build, protocol, pairs):
    values = PERIOD if protocol == "period" else protocol_values(protocol)
    values = {**values, "cold_items": 0.3, "MAX_ITEM_LIST_LENGTH": 3, "SCENE_FIELD": "scene"}
    dataset, parts = build("DSPnet", **values, train_pairs="all")
    of_user = {}
    for row in rows_of(dataset, parts[0]):
        of_user.setdefault(row[0], []).append(row)
    expected = []
    for rows in of_user.values():
        late = [row for row in rows if row[1] >= DAY * 200]
        back = [row for n, row in enumerate(reversed(rows)) if n == 0 or (n % 2 == 0 and len(row[2]) == 3)]
        expected += {"last": rows[-1:], "window": back, "cut": late[:1], "after": late}[pairs]
    given = {"window_step": 2} if pairs == "window" else {}
    dataset, parts = build("DSPnet", **values, **given, train_pairs=pairs)
    assert sorted(rows_of(dataset, parts[0])) == sorted(expected) != []
    tokens = dataset.field2id_token["item_id"]
    future = parts[0].inter_feat[:]["future_item_id_list"].tolist()
    for (user, time, _, _), later in zip(rows_of(dataset, parts[0]), future):
        assert [tokens[item] for item in later if item] == [row[3] for row in of_user[user] if row[1] >= time]


def test_windows_of_positions_hold_no_cold_item(make_config, write_walks):
    config = make_config("SASRec", cold_items=0.3, train_pairs="positions", MAX_ITEM_LIST_LENGTH=4)
    dataset = create_dataset(config)
    train, _, _ = create_loaders(config, dataset)
    cold, targets = drawn_items(dataset), 0
    for batch in train:
        assert not cold[torch.cat([batch["item_id_list"].flatten(), batch["next_item_id_list"].flatten()])].any()
        targets += int((batch["next_item_id_list"] > 0).sum())
    assert targets == len(train._dataset.inter_feat)  # as many as rows


def test_the_scale_of_times_does_not_know_the_days_of_cold_events(build, write_walks):
    write_walks(
        [(user, item, time if item != "i7" else time + DAY * 9000, scene) for user, item, time, scene in walk_log()]
    )
    for seed in range(100):
        dataset, parts = build("PASRec", cold_items=0.1, time_range="train", seed=seed, protocol="sequence_811")
        if "i7" in names_of(dataset, drawn_items(dataset)):
            break
    assert parts[0].day_range.last < 9000
    real = parts[0].inter_feat[:]
    assert real["toi"].max() == 1 and real["toi_list"].max() < 1


# Split files


@pytest.mark.parametrize("pairs", ["all", "prefixes", "positions"])
def test_split_files(write_atomic, make_config, pairs):
    logs = {f"u{u}": [f"i{(u + t) % 10}" for t in range(8)] for u in range(12)}
    for part, last in (("train", 5), ("valid", 6), ("test", 7)):
        columns = {
            "user_id:token": list(logs), "item_id:token": [log[last] for log in logs.values()],
            "item_id_list:token_seq": [log[:last] for log in logs.values()],
            "timestamp:float": [last] * 12, "timestamp_list:float_seq": [[*range(last)]] * 12,
        }  # fmt: skip
        write_atomic(columns, suffix=f"{part}.inter")
    config = make_config("SASRec", protocol="benchmark", cold_items=0.2, train_pairs=pairs, MAX_ITEM_LIST_LENGTH=3)
    dataset = create_dataset(config)
    train, valid, test = create_loaders(config, dataset)
    cold = names_of(dataset, drawn_items(dataset))
    expected = []
    for user, log in logs.items():
        warm = [item for item in log[:6] if item not in cold]
        if pairs != "all":
            expected += [(user, tuple(warm[:n][-3:]), warm[n]) for n in range(1, len(warm))]
        elif log[5] not in cold:
            expected.append((user, tuple(warm[:-1][-3:]), warm[-1]))
    found = [(row[0], *row[2:]) for row in rows_of(dataset, train._dataset)]
    assert sorted(found) == sorted(expected)
    assert len(test._dataset.inter_feat) == len(valid._dataset.inter_feat) == 12
    assert any(set(row[2]) & {*cold} for row in rows_of(dataset, test._dataset))


# What training learns


def toy(tmp_path, model, **values):
    common = {
        "data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved"), "load_col": None, "use_gpu": False,
        "num_threads": 1, "epochs": 1, "train_batch_size": 64, "show_progress": False, "tensorboard": False,
        "cold_items": 0.2, "MAX_ITEM_LIST_LENGTH": 6, **SMALL.get(model, {}),
    }  # fmt: skip
    return quick_start.run(model, "toy", config_dict={**common, **values}, quiet=True)


def weights(result):
    return load(f"{result['run_dir']}/last.pth")["state_dict"]


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("SASRec", {}), ("SASRec", {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "alpha": 1.0,
         "dynamic": False, "candidate_num": 0}, "loss_type": "BPR"}), ("SASRec", {"train_pairs": "positions"}),
        ("PASRec", {}), ("ACVAE", {"train_pairs": "last"}), ("DSPnet", {"protocol": "period"}), ("Transitions", {}),
        ("BPR", {}),
    ],
)  # fmt: skip
def test_cold_events_teach_nothing(tmp_path, write_walks, make_config, model, values):
    """Other cold items in the place of those of training: the same weights, to the last bit."""
    dataset = create_dataset(make_config(cold_items=0.2))
    cold = [int(name[1:]) for name in names_of(dataset, drawn_items(dataset))]
    first = weights(toy(tmp_path, model, **values))

    def other(user, step, length, item):
        is_held_out = step >= length - (length if values.get("protocol") and user % 10 > 7 else 2)
        return item if user < 2 or item not in cold or is_held_out else cold[(cold.index(item) + 1) % len(cold)]

    changed = walk_log(other)
    assert changed != walk_log()
    write_walks(changed)
    second = weights(toy(tmp_path, model, **values))
    assert all(torch.equal(first[name], second[name]) for name in first if isinstance(first[name], torch.Tensor))


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("DreamRec", {}), ("DiffRec", {"tie_weights": False}), ("PASRec", {}),
        ("ACVAE", {"weight_decay": 0}), ("ACVAE", {"loss": "gBCE", "loss_negatives": 4, "weight_decay": 0}),
        ("DSPnet", {}), ("DSPnet", {"train_pairs": "positions"}),
        ("DSPnet", {"candidates": "sampled", "num_sampled": 5}), ("SASRec", {}),
        ("SASRec", {"train_pairs": "positions"}),
        ("SASRec", {"loss": "sampled_softmax", "loss_negatives": 4}), ("NARM", {}),
        ("FPMC", {}), ("BPR", {}),
    ],
)  # fmt: skip
def test_vectors_of_cold_items_stay_as_they_were_drawn(tmp_path, write_walks, make_config, model, values):
    """No loss takes them for items that nobody wants, be it as a softmax or as negative items."""
    dataset = create_dataset(make_config(cold_items=0.2))
    cold = drawn_items(dataset)
    start = load(f"{toy(tmp_path, model, **values, epochs=0)['run_dir']}/best.pth")["state_dict"]
    end, found = weights(toy(tmp_path, model, **values)), 0
    for name, before in start.items():
        if isinstance(before, torch.Tensor) and before.shape[:1] in ((ITEMS + 1,), (ITEMS + 2,)):  # one more: [MASK]
            after, found = end[name], found + 1
            assert torch.equal(before[: ITEMS + 1][cold], after[: ITEMS + 1][cold]), name
            assert not torch.equal(before, after)
    assert found


def test_a_loss_that_cannot_leave_them_out_is_told(tmp_path, write_walks, caplog):
    toy(tmp_path, "BERT4Rec", hidden_size=16, inner_size=16, epochs=1)
    assert "the loss of BERT4Rec is over all items" in caplog.text


# Runs


def test_a_run_says_what_is_held_out(tmp_path, write_walks, make_config, caplog):
    dataset = create_dataset(make_config(cold_items=0.2))
    cold = names_of(dataset, drawn_items(dataset))
    log = {}
    for user, item, _, _ in walk_log():
        log.setdefault(user, []).append(item)
    targets = sum(items[-1] in cold for items in log.values())
    events = sum(item in cold for items in log.values() for item in items[:-2])
    said = f"cold_items: 7 of 34 items are held out of training, with {events} events; {targets} of 40 test targets"
    for model in ("SASRec", "BPR"):
        caplog.clear()
        result = toy(tmp_path, model, epochs=1, state="INFO", mask_seen=False)
        assert said in caplog.text.replace("\x1b", "")
        diagnostics = result["diagnostics"]
        assert diagnostics["lists"]["untrained_items"] == 7 and diagnostics["cold_targets"]["rows"] == targets
        rows = [(diagnostics[f"{kind}_targets"]["rows"], diagnostics[f"{kind}_targets"]["hit@10"])
                for kind in ("warm", "cold")]  # fmt: skip
        assert sum(n for n, _ in rows) == 40
        assert sum(n * hit for n, hit in rows) / 40 == pytest.approx(result["test_result"]["hit@10"], abs=1e-3)
        assert f"{model}, cold targets" in caplog.text and f"{model}, warm targets" in caplog.text
        counts = load(f"{result['run_dir']}/best.pth")["serving"]["counts"]
        assert names_of(dataset, counts == 0) == ["[PAD]", *cold]


def test_the_kept_data_set_of_another_share_is_not_used(tmp_path, write_walks):
    kept = {"data_cache": str(tmp_path / "kept"), "epochs": 1}
    first, again = toy(tmp_path, "SASRec", **kept), toy(tmp_path, "SASRec", **kept)
    assert first["test_result"] == again["test_result"]
    assert first["diagnostics"] == toy(tmp_path, "SASRec", epochs=1)["diagnostics"]
    without = toy(tmp_path, "SASRec", **kept, cold_items=None)
    assert without["diagnostics"] != first["diagnostics"]
    assert without["diagnostics"] == toy(tmp_path, "SASRec", epochs=1, cold_items=None)["diagnostics"]


def test_a_run_goes_on_with_its_own_cold_items(tmp_path, write_walks, refused, capsys):
    folder = toy(tmp_path, "SASRec")["run_dir"]
    capsys.readouterr()
    for change in ("--cold_items=0.3", "--seed=7"):
        refused([f"--resume={folder}", "--epochs=2", change], "cold_items", "--resume")
    gone_on = quick_start.run(argv=[f"--resume={folder}", "--epochs=2"], quiet=True)
    assert toy(tmp_path, "SASRec", epochs=2)["diagnostics"] == gone_on["diagnostics"]


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "1.5", "nan", "many", "True", "[0.1]", "0.001", "0.99"])
def test_bad_shares(tmp_path, write_walks, refused, value):
    line = ["--model=SASRec", "--dataset=toy", f"--data_path={tmp_path}", f"--checkpoint_dir={tmp_path}",
            "--state=ERROR", f"--cold_items={value}"]  # fmt: skip
    refused(line, "cold_items")
