"""The order of simultaneous events: drawn by a seed of its own, and one for every model, protocol and process."""

import logging
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest

from recbole_gen import quick_start
from recbole_gen.data import cache
from recbole_gen.data.loaders import build_dataset
from recbole_gen.data.simultaneous import shuffled_ties
from recbole_gen.errors import UserError
from recbole_gen.evaluation.ties import token_hashes

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")
MANY = 6000
"""Users with three simultaneous events each."""


def tied_log(seed: int = 0, users: int = 40, items: int = 25, days: int = 4, events: int = 12) -> dict:
    """Interleaved users with many events a day, some of them of the same item."""
    draw = np.random.default_rng(seed)
    user = draw.permutation(np.repeat(np.arange(users), events))
    return {
        "user_id:token": [f"u{number}" for number in user],
        "item_id:token": [f"i{number}" for number in draw.integers(items, size=len(user))],
        "timestamp:float": (86400 * draw.integers(days, size=len(user))).tolist(),
    }


def days_of(log: dict) -> dict[str, list[list[str]]]:
    """The items of each user by day, in the order of the file."""
    users = defaultdict(lambda: defaultdict(list))
    for user, item, time in zip(*log.values(), strict=True):
        users[user][time].append(item)
    return {user: [days[time] for time in sorted(days)] for user, days in users.items()}


def sequences(config) -> dict[str, list[str]]:
    """The items of each user in the order that a sequential model has them in."""
    data, _ = build_dataset(config)
    rows = data.inter_feat
    users, items = (data.id2token(field, rows.targets[field].numpy()) for field in (data.uid_field, data.iid_field))
    return {user: items[users == user].tolist() for user in np.unique(users)}


def rows_of(config) -> list[list[str]]:
    """User and target of each row of the validation and the test part."""
    data, parts = build_dataset(config)
    named = []
    for part in parts[1:]:
        rows = part.inter_feat
        named.append(sorted(map(" ".join, zip(*(data.id2token(f, rows[f].numpy()) for f in ("user_id", "item_id"))))))
    return named


def orders_of(items: list[str], seed: int) -> Counter:
    """How often each order of these simultaneous items comes, over `MANY` users."""
    tokens = sorted(set(items))
    users = np.repeat(np.arange(MANY), len(items))
    ids = np.tile([tokens.index(item) for item in items], MANY)
    hashes = [token_hashes([f"u{n}" for n in range(MANY)], seed), token_hashes(tokens, seed)]
    places, order = shuffled_ties(users, ids, np.zeros(len(users)), *hashes)
    assert places.tolist() == list(range(len(users))) and (users[places] == users[order]).all()
    return Counter("".join(tokens[i] for i in line) for line in ids[order].reshape(MANY, -1))


@pytest.mark.parametrize(("items", "orders"), [("abc", 6), ("aab", 3), ("ab", 2)])
@pytest.mark.parametrize("seed", [1, 2])
def test_all_orders_are_equally_likely(items, orders, seed):
    found = orders_of(list(items), seed)
    assert len(found) == orders
    expected = MANY / orders
    assert all(abs(number - expected) < 4.5 * expected**0.5 for number in found.values())


def test_a_pair_that_is_tied_again_is_drawn_again():
    users, items, times = np.repeat(np.arange(MANY), 4), np.tile([0, 1, 0, 1], MANY), np.tile([0, 0, 1, 1], MANY)
    hashes = token_hashes([str(n) for n in range(MANY)], 3), token_hashes(["a", "b"], 3)
    _, order = shuffled_ties(users, items, times, *hashes)
    pairs = items[order].reshape(MANY, 4)
    assert abs((pairs[:, 0] == pairs[:, 2]).mean() - 0.5) < 0.03


def test_only_simultaneous_events_change_places(write_atomic, make_config):
    log = tied_log()
    write_atomic(log)
    by_file, drawn = (sequences(make_config(tie_order=order, tie_seed=5)) for order in ("file", "random"))
    days = days_of(log)
    assert by_file == {user: [item for day in own for item in day] for user, own in days.items()} != drawn
    for user, own in days.items():
        ends = np.cumsum([len(day) for day in own])[:-1]
        assert [sorted(day) for day in np.split(drawn[user], ends)] == [sorted(day) for day in own]


def test_the_order_is_that_of_seed_and_user_whoever_else_there_is(write_atomic, make_config):
    log = tied_log()
    write_atomic(log)
    write_atomic({name: [v for v, u in zip(values, log["user_id:token"]) if u > "u2"] for name, values in log.items()},
                 name="few")  # fmt: skip
    given = {"tie_order": "random", "tie_seed": 5}
    everybody, few = sequences(make_config(**given)), sequences(make_config(dataset="few", **given))
    assert few.keys() < everybody.keys() and all(few[user] == everybody[user] for user in few)
    assert sequences(make_config(**given, seed=7)) == everybody
    assert sequences(make_config(tie_order="random", seed=5)) == everybody  # tie_seed: ~ is the seed
    assert sequences(make_config(tie_order="random", tie_seed=6)) != everybody


@pytest.mark.parametrize("protocol", ["leave_one_out", "holdout_82", "period"])
def test_models_of_every_kind_are_tested_on_the_same_events(write_atomic, make_config, protocol):
    write_atomic(tied_log(days=6))
    given = {"protocol": protocol, "tie_order": "random", "tie_seed": 1, "least_future": 1}
    found = {model: rows_of(make_config(model, **given)) for model in ("GRU4Rec", "BPR")}
    assert found["GRU4Rec"] == found["BPR"] == rows_of(make_config("BPR", **given, normalize_all=True))
    assert rows_of(make_config("BPR", **{**given, "tie_seed": 2})) != found["BPR"]
    assert rows_of(make_config("BPR", **{**given, "tie_order": "file"})) != found["BPR"]


def test_a_kept_data_set_is_that_of_its_order(write_atomic, make_config, tmp_path, caplog):
    write_atomic(tied_log())
    caplog.set_level(logging.INFO)

    def last(**given) -> tuple[list, bool]:
        """Targets of the test rows, and whether they were built."""
        caplog.clear()
        _, parts = cache.shared_dataset(make_config(**given), tmp_path / "kept")
        return parts[2].inter_feat["item_id"].tolist(), "the data set is shared, as" in caplog.text

    orders = [{}, {"tie_order": "random", "tie_seed": 1}, {"tie_order": "random", "tie_seed": 2}]
    built = [last(**given) for given in orders]
    assert all(new for _, new in built) and len({tuple(items) for items, _ in built}) == 3
    for given, (items, _) in zip(orders, built, strict=True):
        assert last(**given) == (items, False)
        assert build_dataset(make_config(**given))[1][2].inter_feat["item_id"].tolist() == items
    assert last(seed=3) == (built[0][0], False) and last(**orders[1], seed=3) == (built[1][0], False)


def test_a_run_goes_on_with_its_own_order_only(run, write_atomic):
    write_atomic(tied_log())
    result = run("GRU4Rec", tie_order="random", epochs=1)
    assert result["config"]["tie_order"] == "random"
    resume = f"--resume={result['run_dir']}"
    again = quick_start.run(argv=[resume, "--epochs=1"])
    assert again["test_result"] == result["test_result"]
    assert quick_start.run(argv=[resume, "--tie_seed=2020"])["test_result"] == result["test_result"]
    for other in ("--tie_order=file", "--tie_seed=2", "--seed=1"):
        with pytest.raises(UserError, match=r"tie_seed 2020 draws, not in .*new run, without --resume"):
            quick_start.run(argv=[resume, "--epochs=2", other])
    ranks = pd.read_csv(f"{result['run_dir']}/ranks.test.tsv", sep="\t")
    data = quick_start.load(result["run_dir"]).test._dataset
    assert ranks["item_id"].tolist() == data.id2token("item_id", data.inter_feat["item_id"].numpy()).tolist()


def test_where_there_is_no_order_to_choose(write_atomic, make_config, caplog):
    write_atomic(tied_log())
    build_dataset(make_config("GRU4Rec", tie_seed=3))
    assert "tie_seed (dict) has no effect: it is read with tie_order: random" in caplog.text
    anyhow = {"eval_args": {"order": "RO", "split": {"RS": [8, 1, 1]}, "group_by": "user", "mode": "full"}}
    build_dataset(make_config("BPR", tie_order="random", **anyhow))
    assert "tie_order (dict) has no effect: eval_args have order: RO" in caplog.text
    for part in ("train", "valid", "test"):
        columns = {"user_id:token": ["u"], "item_id:token": ["i"], "item_id_list:token_seq": [["j"]]}
        write_atomic(columns, suffix=f"{part}.inter")
    with pytest.raises(UserError, match="tie_order: random needs the whole log"):
        build_dataset(make_config("GRU4Rec", protocol="benchmark", tie_order="random"))
    with pytest.raises(UserError, match="tie_order"):
        make_config(tie_order="shuffled")
