"""What the comment beside a default says of a key's values, and that every key of every model has such a rule."""

import datetime
import re

import pytest

from recbole_gen.config import key_table, keys, places, registry
from recbole_gen.config.key_table import key_table as table_of
from recbole_gen.config.rules import parse_rule
from recbole_gen.errors import UserError
from recbole_gen.options import read_yaml

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "comment, good, bad",
    [
        ("(int) Size.", [-3, 0, 2**62], [1.0, True, "3", None, 2**63, -(2**64), [3]]),
        ("(int) >= 1: Size.", [1, 2], [0, -1, 0.5]),
        ("(int or ~) 2..5: Size.", [2, 5, None], [1, 6, 10**30]),
        ("(float) > 0: Rate.", [1e-9, 3], [0, -1, NAN, INF, True, "1"]),
        ("(float) Weight. From 0..1 in the paper", [-5.5, 3], [NAN, -INF]),
        ("(float) > 0 and < 1:", [0.5], [0, 1, 1.5]),
        ("(int) 4..64 and a multiple of 2:", [4, 64], [5, 2, 66]),
        ("(int) 0|2: Facets.", [0, 2], [1, 3]),
        ("(str) a|b-c|'': Mode.", ["a", "b-c", ""], ["A", "c", None, True]),
        ("(str) 01|rating:", ["01", "rating"], ["1"]),
        ("(str or ~) = length: Groups.", ["length", None], ["width"]),
        ("(word) adam|SGD: Optimiser.", ["Adam", "sgd"], ["rmsprop", None]),
        ("(str or float) beta|> 0 and < 1: Share.", ["beta", 0.5], ["gamma", 0, 1, NAN]),
        ("(float or str) inf|> 0:", ["inf", INF, 2], ["-inf", 0, -INF, NAN]),
        ("(bool)", [True, False, 1], ["yes", 2, None, 0.5]),
        ("(name)", ["x", "\t"], ["", None, 3.5]),
        ("(path)", ["x"], ["", "  ", ["x"]]),
        ("(interval or ~)", ["[5,inf)", "(0,10];[12,12]", None], ["5", "[5,inf", "[4,3]", "[nan,5]", 5, "", "(3,3]"]),
        ("(date or float)", [datetime.date(2024, 8, 1), 0.8], ["soon"]),
        ("(list of 1+ int) 1..9:", [[1, 9], (3,)], [[], [0], [1, "x"], [True], [1.5], 3]),
        ("(list of 2 float) >= 0:", [[0, 0.5]], [[0.5], [0, 0.5, 1], [0, -1], [0, NAN]]),
        ("(list of str or str)", [["a"], "a", []], [[["a"]], 3.0, None]),
        ("(dict of interval/list or ~)", [{"a": "[4,9]", "b": ["x"]}, {}, None], [{"a": "[4,9"}, {"a": 4}, "a"]),
        ("(dict of int) 1..9:", [{"a": 3}], [{"a": 0}, {"a": True}, {"a": "x"}]),
        ("(any)", [None, NAN, [3]], []),
    ],
)
def test_what_a_comment_allows(comment, good, bad):
    rule = parse_rule(comment)
    assert [value for value in good if rule.refusal(value)] == []
    assert [value for value in bad if not rule.refusal(value)] == []


@pytest.mark.parametrize("comment", ["no brackets", "(number) 1..2", "(list of things)", "(int, optional)", ""])
def test_a_comment_that_says_no_kind_is_no_rule(comment):
    assert parse_rule(comment) is None


def test_a_text_that_is_no_range_allows_everything_of_the_kind():
    for comment in ("(str) mode: fast or slow", "(str) Searched: a|b", "(float) From 0 to 1: a share"):
        rule = parse_rule(comment)
        assert not rule.choices and not rule.ranges


def test_a_number_stands_for_text_only_where_text_is_all_that_there_may_be():
    assert parse_rule("(str or ~)").converted(5) == "5" and parse_rule("(str or ~)").converted(True) is True
    assert parse_rule("(bool)").converted(1) is True and parse_rule("(bool or int)").converted(1) == 1
    assert parse_rule("(str or float)").converted(5) == 5 and parse_rule("(any)").converted(5) == 5


def test_conditions_name_other_keys():
    rule = parse_rule("(int) 1..64 and a multiple of n_heads: Size.")
    assert (
        rule.refusal(8, {"n_heads": 4}) == "" and rule.refusal(8, {}) == "" and rule.refusal(8, {"n_heads": "x"}) == ""
    )
    assert rule.refusal(7, {"n_heads": 4}) == "a multiple of n_heads (4)"
    assert rule.refusal(8, {"n_heads": 0}) == ""  # which n_heads is told


# The table


def names():
    known = set(registry.recbole_model_names())
    return [*registry.MODELS, *(f"recbole.{name}" for name in sorted(known))]


@pytest.mark.parametrize("name", names())
def test_every_key_has_a_rule_that_its_default_keeps(name):
    info = registry.model_info(name)
    table, model = table_of(info), name.removeprefix("recbole.")
    theirs = places.RECBOLE_PROPERTIES
    files = [theirs / "overall.yaml", theirs / "dataset/sample.yaml", places.PROPERTIES / "overall.yaml"]
    files.append(theirs / f"model/{model}.yaml" if info.is_recbole else info.settings)
    values = {key: value for file in files for key, value in read_yaml(file).items()}
    assert [key for key in values.keys() | keys.UNLISTED_KEYS if key not in table] == []
    assert [key for kind in keys.argument_lists().values() for key in kind if key not in table] == []
    for key, value in values.items():
        table.check(key, table.converted(key, value), "default", values)


def test_no_range_is_written_that_cannot_be_read():
    for file in [*places.PROPERTIES.glob("*.yaml"), *(places.PROPERTIES / "model").glob("*.yaml")]:
        for _, key, comment in key_table._parse_lines(file.read_text(encoding="utf-8")):
            rule = parse_rule(comment)
            assert rule is not None or not comment or key in registry.recbole_model_names(), (file.name, key)
            head = comment.partition(") ")[2].partition(":")[0]
            if rule and (re.search(r"[<>|]|\d\.\.", head) or head.startswith(("=", "a multiple"))):
                assert rule.choices or rule.ranges, (file.name, key, head)


def test_a_rule_of_a_model_wins_over_that_of_the_name():
    with pytest.raises(UserError, match=r"std must be True or False, got 0.5 \(dict\)"):
        table_of(registry.model_info("FEARec")).check("std", 0.5, "dict")
    table_of(registry.model_info("MacridVAE")).check("std", 0.5, "dict")


def test_a_class_of_ones_own_says_kinds_and_ranges_beside_its_defaults(custom, make_config, walks, tmp_path):
    lines = "width: 8  # (int) 1..64 and a multiple of 4: Size.\nscale: 0.1  # (int) Wrong.\ntime: now\nrate: 1\n"
    (tmp_path / "own_models/Custom.yaml").write_text(lines)
    assert make_config("custom:Custom", width=12, scale=0.5, time=7, rate=0.5)["time"] == "7"
    for given, pattern in (
        ({"width": 6}, r"width must be a multiple of 4, got 6 \(dict\)"),
        ({"width": True}, "width must be a whole number, got True"),
        ({"rate": "fast"}, "rate must be a number"),
        ({"time": True}, "time must be text"),
    ):
        with pytest.raises(UserError, match=pattern):
            make_config("custom:Custom", **given)


# As a user meets it


@pytest.mark.parametrize(
    "model, given, pattern",
    [
        ("DreamRec", {"epochs": "1:30"}, r"epochs must be a whole number, got '1:30' \(dict\)"),
        ("DreamRec", {"seed": "017"}, "seed must be a whole number, got '017'"),
        ("DreamRec", {"weight_decay": True}, "weight_decay must be a number, got True"),
        ("DreamRec", {"learning_rate": ".inf"}, "learning_rate must be a positive number, got inf"),
        ("DreamRec", {"user_inter_num_interval": 5}, "user_inter_num_interval must be an interval in quotes .*got 5"),
        ("DreamRec", {"item_inter_num_interval": "[5,inf"}, "item_inter_num_interval must be an interval"),
        ("BPR", {"val_interval": {"rating": "[4,9"}}, "val_interval: rating must be an interval"),
        ("BPR", {"clip_grad_norm": {"max_norm": -1}}, "clip_grad_norm: max_norm must be a positive number, got -1"),
        ("BPR", {"clip_grad_norm": {"norm_type": 2}}, r"clip_grad_norm must be a mapping such as \{max_norm: 1.0\}"),
        ("BPR", {"clip_grad_norm": {"max_norm": 1, "foreach": True}}, "clip_grad_norm has no 'foreach'"),
        ("BPR", {"train_neg_sample_args": {"distribution": "unifrom"}}, "distribution must be one of uniform, popul"),
        ("BPR", {"train_neg_sample_args": {"sample_num": 2}}, "must be a mapping such as {distribution: uniform}"),
        ("BPR", {"embedding_size": 10**9}, "embedding_size must be a whole number from 1 to 16384, got 1000000000"),
        ("LightGCN", {"n_layers": 10**9}, "n_layers must be a whole number from 1 to 100"),
        ("SASRec", {"n_heads": 3}, r"hidden_size must be a multiple of n_heads \(3\), got 64"),
        ("SASRec", {"hidden_act": "gelo"}, "hidden_act must be one of gelu, relu, swish, tanh, sigmoid, got 'gelo'"),
        ("NeuMF", {"mlp_hidden_size": [64, 0]}, "must be a list, each member a whole number from 1 to 65536"),
        ("NeuMF", {"mlp_hidden_size": []}, "mlp_hidden_size must be a list of at least one value.*, got \\[\\]"),
        ("HGN", {"reg_weight": 0.1}, "reg_weight must be a list of 2 values, each a number, got 0.1"),
        ("DreamRec", {"sampling": "ddpm"}, "sampling must be one of ancestral, ddim, got 'ddpm'"),
        ("ACVAE", {"contrast_optimizer": {"learner": "sgd"}}, "must be a mapping such as {learner: sgd, learning_rate"),
        ("DreamRec", {"rm_dup_inter": "frist"}, "rm_dup_inter must be one of first, last, ~, got 'frist'"),
        ("DreamRec", {"threshold": {"rating": "x"}}, "threshold must be a mapping, each value a number"),
        ("DreamRec", {"metric_decimal_place": 10**9}, "metric_decimal_place must be a whole number from 0 to 20"),
    ],
)  # fmt: skip
def test_no_nonsense_is_accepted(model, given, pattern, make_config, walks):
    with pytest.raises(UserError, match=pattern):
        make_config(model, **given)
