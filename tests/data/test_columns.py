"""Settings that name columns: loaded where they exist, refused by name where they do not, for every kind of model."""

import logging

import pytest

from recbole_gen.data.columns import COLUMN_KEYS, read_titles
from recbole_gen.data.loaders import create_dataset
from recbole_gen.data.requirements import check_before_loading
from recbole_gen.errors import UserError

LOADED = {"inter": ["user_id", "item_id", "timestamp"]}
KINDS = ("SASRec", "BPR", "FM", "CKE", "GRU4RecKG", "DIEN")
RATED = {"threshold": {"rating": 3}}  # labels for FM


@pytest.fixture
def shop(write_atomic):
    """Users u0 .. u7 buy a0 .. a9 in turn; prices and colours of items, ages of users, and a graph."""
    rows = [
        (f"u{u}", f"a{(u + t) % 10}", 100 * u + t, (u + t) % 5 + 1, "xy"[t % 2], ["p", "q"][: t % 3])
        for u in range(8)
        for t in range(6)
    ]
    titles = ["user_id:token", "item_id:token", "timestamp:float", "rating:float", "page:token", "marks:token_seq"]
    write_atomic(dict(zip(titles, map(list, zip(*rows)), strict=True)))
    items, numbers = [f"a{n}" for n in range(10)], list(range(10))
    colours, vectors = [["red", "blue"][: n % 3] for n in numbers], [[n, n + 0.5] for n in numbers]
    write_atomic(
        {"item_id:token": items, "price:float": numbers, "colour:token_seq": colours, "brand:token": list("ccddccddcc"),
         "vector:float_seq": vectors}, "item",
    )  # fmt: skip
    write_atomic({"user_id:token": [f"u{n}" for n in range(8)], "age:float": numbers[:8]}, "user")
    write_atomic({"item_id:token": items, "entity_id:token": [f"e{n}" for n in numbers]}, "link")
    write_atomic({"ent_id:token": items, "ent_emb:float_seq": vectors}, "ent")
    write_atomic({"head_id:token": [f"e{n}" for n in numbers], "relation_id:token": ["r"] * 10,
                  "tail_id:token": [f"e{(n + 1) % 10}" for n in numbers]}, "kg")  # fmt: skip


def settings_of(key, column):
    """A value of a key that names this column."""
    if key == "preload_weight":
        return {key: {"ent_id": column}, "additional_feat_suffix": "ent", "alias_of_item_id": ["ent_id"]}
    if key == "discretization":
        return {key: {column: {"method": "LD"}}, "numerical_features": [column]}
    values = {"val_interval": {column: "[2,inf)"}, "threshold": {column: 3}, "seq_len": {column: 1}}
    return {key: values.get(key, column if key.endswith("FIELD") or key == "item_attribute" else [column])}


# A column that each key could name, and one near to it.
NAMES = {
    "val_interval": ("price", "prise"), "threshold": ("rating", "ratng"), "normalize_field": ("age", "aeg"),
    "numerical_features": ("price", "pric"), "discretization": ("price", "prices"),
    "preload_weight": ("ent_emb", "ent_embb"), "alias_of_user_id": ("page", "pages"),
    "alias_of_item_id": ("brand", "brnd"), "seq_len": ("colour", "color"), "selected_features": ("brand", "brande"),
    "item_attribute": ("colour", "color"),
}  # fmt: skip


@pytest.mark.parametrize("key", NAMES)
def test_a_column_that_exists_is_loaded_and_another_is_refused_with_the_nearest(key, shop, make_config):
    column, wrong = NAMES[key]
    model = {"threshold": "FM", "selected_features": "SASRecF", "item_attribute": "S3Rec"}.get(key, "SASRec")
    config = make_config(model, load_col=LOADED, **settings_of(key, column))
    check_before_loading(config)
    assert column in [name for names in config["load_col"].values() for name in names]
    assert column in create_dataset(config).field2type or key == "threshold"
    with pytest.raises(
        UserError, match=rf"({key}|numerical_features) \(dict\) names the column '{wrong}'.*Did you mean {column}\?"
    ):
        check_before_loading(make_config(model, load_col=LOADED, **settings_of(key, wrong)))


@pytest.mark.parametrize("model", KINDS)
def test_every_kind_of_model_says_the_same(model, shop, make_config, write_atomic):
    rated = RATED if model == "FM" else {}
    for values, said in (
        ({"val_interval": {"rate": "[1,3]"}}, r"val_interval .* names the column 'rate'.*Did you mean rating\?"),
        ({"normalize_field": ["page"]}, "normalize_field .*cannot be applied to 'page:token'.*float"),
        ({"val_interval": {"marks": ["p"]}}, "val_interval .*cannot be applied to 'marks:token_seq'"),
        ({"val_interval": {"page": "[1,2]"}}, "'page:token' needs a list of the tokens"),
        ({"val_interval": {"rating": ["1", "2"]}}, "'rating:float' needs an interval"),
        ({"load_col": {"inter": ["user_id", "item_id", "timestmp"]}}, "load_col .*'timestmp'.*mean timestamp"),
        ({"load_col": {"inter": ["user_id", "item_id"], "intre": ["user_id"]}}, "load_col .* names 'intre'"),
        ({"load_col": {"inter": "user_id"}}, "load_col.* must be .*a list"),
        ({"unload_col": {"item": ["pric"]}}, "unload_col .*'pric'.*mean price"),
        ({"unused_col": {"inter": ["rtaing"]}}, "unused_col .*'rtaing'.*mean rating"),
        ({"normalize_field": ["age"], "unload_col": {"user": ["age"]}}, "normalize_field needs the column 'age'"),
        ({"preload_weight": {"item_id": "vector"}}, "preload_weight: 'item_id' .*one file that is theirs alone"),
        ({"seq_len": {"marks": 0}}, "seq_len must be .*a whole number from 1"),
        ({"seq_len": {"item_id_list": 5}}, "item_id_list.*MAX_ITEM_LIST_LENGTH"),
    ):
        given = {"load_col": None, "additional_feat_suffix": "ent" if model == "GRU4RecKG" else None, **rated, **values}
        with pytest.raises(UserError, match=said):
            create_dataset(make_config(model, **given))


def test_upper_and_lower_case_are_alike_to_the_nearest_column(shop, make_config):
    with pytest.raises(UserError, match=r"names the column 'RATING'.*Did you mean rating\?"):
        check_before_loading(make_config("SASRec", val_interval={"RATING": "[1,3]"}))


@pytest.mark.parametrize(("model", "key", "wrong", "near"), [
    ("SASRec", "TIME_FIELD", "timestmp", "timestamp"), ("SASRec", "ITEM_ID_FIELD", "itemid", "item_id"),
    ("BPR", "USER_ID_FIELD", "userid", "user_id"), ("BPR", "TIME_FIELD", "timestmp", "timestamp"),
    ("PASRec", "TIME_FIELD", "timestmp", "timestamp"), ("DSPnet", "SCENE_FIELD", "brnd", "brand"),
    ("DMF", "RATING_FIELD", "ratings", "rating"), ("FFM", "fields", "prices", "price"),
])  # fmt: skip
def test_the_fields_of_the_log_have_a_nearest_column_too(model, key, wrong, near, shop, make_config):
    more = {"DMF": {"inter_matrix_type": "rating"}, "FFM": RATED}.get(model, {})
    with pytest.raises(UserError, match=rf"'{wrong}'.*Did you mean {near}\?"):
        create_dataset(make_config(model, **{key: {0: [wrong]} if key == "fields" else wrong}, **more))


@pytest.mark.parametrize("model", ["BPR", "FM", "CKE"])
def test_models_of_users_and_items_load_what_they_cannot_do_without(model, shop, make_config):
    graph = {"kg": "*", "link": "*"} if model == "CKE" else {}
    order = {"order": "TO", "split": {"LS": "valid_and_test"}, "mode": "labeled" if model == "FM" else "full"}
    given = {"load_col": {"inter": ["item_id"], **graph}, "eval_args": order, **(RATED if model == "FM" else {})}
    dataset = create_dataset(make_config(model, **given))
    assert {"user_id", "item_id", "timestamp"} <= set(dataset.inter_feat)
    assert all(len(part) for part in dataset.build())


def test_a_column_of_two_files_is_refused(shop, make_config, write_atomic):
    write_atomic({"user_id:token": ["u0"], "rating:float": [3]}, "user")
    with pytest.raises(UserError, match=r"'rating' is a column of toy.inter and of toy.user.*unload_col"):
        create_dataset(make_config("BPR"))
    create_dataset(make_config("BPR", unload_col={"user": ["rating"]}))


def test_what_recbole_ships_may_name_columns_that_are_not_there(walks, make_config):
    assert "rating" in make_config("KGIN", load_col={"inter": ["user_id", "rating"]})["load_col"]["inter"]
    config = make_config("BPR", unload_col=None)
    config.chosen.discard("load_col")
    config["load_col"] = {"inter": ["user_id", "item_id", "timestamp", "rating"], "item": ["item_id", "class"]}
    check_before_loading(config)


def test_a_threshold_that_nothing_reads_is_told_with_the_cure(shop, make_config, caplog):
    for model in ("SASRec", "BPR", "CKE", "DIEN"):
        caplog.clear()
        config = make_config(model, load_col=None, threshold={"rating": 4})
        with caplog.at_level(logging.WARNING):
            dataset = create_dataset(config)
        assert "threshold (dict) has no effect" in caplog.text
        assert "--val_interval=\"{rating: '[4,inf)'}\"" in caplog.text
        assert any("threshold" in each for each in dataset.notes) and "rating" in dataset.inter_feat
    caplog.clear()
    assert "label" in create_dataset(make_config("FM", **RATED)).inter_feat and "threshold" not in caplog.text


def test_labels_come_from_a_column_or_a_threshold(shop, make_config, write_atomic):
    with pytest.raises(UserError, match=r"LABEL_FIELD .*'label'.*FM reads labels.*threshold.*inter has user_id"):
        create_dataset(make_config("FM", load_col=LOADED))
    write_atomic({"user_id:token": ["u0", "u1"], "item_id:token": ["a0", "a1"], "timestamp:float": [1, 2],
                  "clicked:float": [0, 1]})  # fmt: skip
    config = make_config("FM", load_col=LOADED, LABEL_FIELD="clicked")
    assert "clicked" in create_dataset(config).inter_feat


def test_filters_that_split_files_do_not_get_are_refused(write_atomic, make_config):
    for part in ("train", "valid", "test"):
        write_atomic(
            {"user_id:token": ["u", "v"], "item_id:token": ["a", "b"], "item_id_list:token_seq": [["b"], ["a"]]},
            suffix=f"{part}.inter",
        )
    for model in ("SASRec", "BPR"):
        for values in ({"user_inter_num_interval": "[5,inf)"}, {"rm_dup_inter": "first"}):
            with pytest.raises(UserError, match=f"{next(iter(values))} .*split already"):
                create_dataset(make_config(model, protocol="benchmark", **values))
    write_atomic({"user_id:token": ["u"], "item_id:token": ["a"]}, suffix="test.inter")
    with pytest.raises(UserError, match=r"toy.test.inter lacks 'item_id_list'"):
        create_dataset(make_config("SASRec", protocol="benchmark"))


def test_tokens_of_a_filter_are_text(shop, make_config, write_atomic):
    write_atomic({"user_id:token": ["u", "u", "v"], "item_id:token": ["a", "b", "c"], "timestamp:float": [1, 2, 3],
                  "kind:token": [7, 8, 7]})  # fmt: skip
    dataset = create_dataset(make_config("BPR", val_interval={"kind": [7]}, unload_col={"item": ["brand"]},
                                         filter_inter_by_user_or_item=False))  # fmt: skip
    assert len(dataset.inter_feat) == 2


def test_the_titles_are_read_past_a_byte_order_mark(tmp_path, make_config, walks):
    path = tmp_path / "toy.item"
    path.write_bytes("\ufeffitem_id:token\tprice:float\r\na\t1\r\n".encode())
    assert read_titles(make_config(), path) == {"item_id": "token", "price": "float"}
    assert {spec.key for spec in COLUMN_KEYS} >= NAMES.keys()


def test_rows_of_a_graph_without_an_entity_are_left_out_and_told(shop, make_config, tmp_path, caplog):
    """Else they are triples, and links, of the padding."""
    (folder,) = {path.parent for path in tmp_path.rglob("*.kg")}
    for suffix, row in (("kg", "\tr\te1\n"), ("link", "a1\t\n")):
        with open(folder / f"{folder.name}.{suffix}", "a") as file:
            file.write(row)
    graph = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
    config = make_config("CFKG", load_col={**LOADED, **graph})
    data = create_dataset(config)
    assert len(data.kg_feat) == 10 and "" not in data.item2entity.values()
    told = " ".join(data.notes)
    assert "without a value in 'head_id'" in told and "without a value in 'entity_id'" in told
