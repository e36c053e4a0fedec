"""What files of features and filters take away from a log, or add to it, is told with counts, before training."""

import logging

import pytest

from recbole_gen.data.cache import shared_dataset
from recbole_gen.data.loaders import create_dataset
from recbole_gen.errors import UserError


@pytest.fixture
def odd_features(write_atomic):
    """Four users with four items each, in the files of features three of each, an item twice, and four new ones."""
    rows = [(f"w{u}", item, 10 * u + t) for u in range(4) for t, item in enumerate("abd" if u else "abc")]
    write_atomic(dict(zip(["user_id:token", "item_id:token", "timestamp:float"], zip(*rows), strict=True)))
    items = ["a", "b", "a", "d", "n0", "n1", "n2", "n3"]
    write_atomic({"item_id:token": items, "kind:token": list("xyzxyzxy")}, suffix="item")
    write_atomic({"user_id:token": ["w0", "w1", "w2"], "age:float": [1, 2, 3]}, suffix="user")
    write_atomic({"item_id:token": [*"abd"], "entity_id:token": ["ea", "eb", "ed"]}, suffix="link")
    write_atomic({"head_id:token": ["ea", "eb"], "relation_id:token": ["r", "r"], "tail_id:token": ["eb", "ea"]}, "kg")


@pytest.mark.parametrize("model", ["SASRec", "BPR", "DIEN", "CKE", "GRU4RecKG"])
def test_every_kind_of_model_is_told_of_the_join(model, odd_features, write_atomic, make_config, caplog):
    write_atomic({"ent_id:token": ["a"], "ent_emb:float_seq": [[1, 2]]}, "ent")
    more = {"additional_feat_suffix": ["ent"]} if model == "GRU4RecKG" else {}
    with caplog.at_level(logging.WARNING):
        dataset = create_dataset(make_config(model, **more))
    for said in (
        "1 of 8 lines of toy.item are left out: of several for one item the first counts",
        "4 of 12 interactions are left out: 1 of 4 users (w3) are not in toy.user, and 1 of 4 items (c) are not in",
        'They are in every ranking: --item_inter_num_interval="[1,inf)" leaves them out',
    ):
        assert said in caplog.text and any(said in note for note in dataset.notes)
    in_graph = "2 of 8 interactions are left out: 1 of 3 items (d) have no entity of the graph in toy.link"
    assert (in_graph in caplog.text) == (model in ("CKE", "GRU4RecKG"))
    assert ("toy.item adds 4 items to the 3" in caplog.text) == (model not in ("CKE", "GRU4RecKG"))


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_what_the_messages_advise_is_what_they_say(model, odd_features, make_config, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = create_dataset(make_config(model, filter_inter_by_user_or_item=False))
    assert len(dataset.inter_feat) == 12 and "interactions are left out" not in caplog.text
    assert "1 of 4 users are not in toy.user (w3): their features are made up" in caplog.text
    assert "1 of 4 items are not in toy.item (c): their features are made up" in caplog.text
    caplog.clear()
    dataset = create_dataset(make_config(model, item_inter_num_interval="[1,inf)"))
    assert "adds" not in caplog.text and dataset.item_num == 4


def test_features_that_match_are_not_talked_about(walks, write_atomic, make_config, caplog):
    write_atomic({"item_id:token": [f"i{n}" for n in range(40)], "kind:token": ["x"] * 40}, suffix="item")
    with caplog.at_level(logging.WARNING):
        assert create_dataset(make_config("SASRec")).notes == []
    assert not caplog.records


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_filters_that_were_asked_for_are_counted(model, walks, make_config, caplog):
    with caplog.at_level(logging.INFO):
        create_dataset(make_config(model, val_interval={"timestamp": "[1000,inf)"}, rm_dup_inter="last"))
    assert "val_interval: " in caplog.text and "rm_dup_inter: " in caplog.text
    with pytest.raises(UserError, match=r"filters leave nothing of inter_feat, val_interval nothing of the last 660"):
        create_dataset(make_config(model, val_interval={"timestamp": "(-inf,0)"}))


def test_who_gets_the_data_set_from_a_cache_is_told_too(odd_features, make_config, tmp_path, caplog):
    values = {"threshold": {"timestamp": 3}, "filter_inter_by_user_or_item": False, "empty_history": True}
    built, _ = shared_dataset(make_config("SASRec", **values), tmp_path / "cache")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        mapped, _ = shared_dataset(make_config("SASRec", **values), tmp_path / "cache")
    assert mapped.notes == built.notes and all(note in caplog.text for note in built.notes)
    assert "threshold" in built.notes[0] and len(built.notes) == 5


def test_what_reading_leaves_out_is_told_from_a_cache_as_well(walks, make_config, tmp_path, caplog):
    with open(tmp_path / "toy/toy.inter", "a") as file:
        file.write("u1\t\t7\n")
    built, _ = shared_dataset(make_config("SASRec"), tmp_path / "cache")
    (note,) = built.notes
    assert "1 of 661 rows" in note and "(line 662)" in note
    caplog.clear()
    with caplog.at_level(logging.INFO):
        mapped, _ = shared_dataset(make_config("SASRec"), tmp_path / "cache")
    assert mapped.notes == built.notes and caplog.text.count(note) == 1
