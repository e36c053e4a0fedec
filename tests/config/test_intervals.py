"""Intervals: RecBole's form is read, and whatever else is refused with key, value and form."""

import math
import re

import pytest
from recbole.data.dataset import Dataset

from recbole_gen.cli import main
from recbole_gen.config.intervals import INTERVAL_KEYS, parse_intervals, read_interval, read_value_intervals
from recbole_gen.errors import UserError

GOOD = {
    "[5,inf)": [("[", 5, math.inf, ")")],
    "(-inf, 3.5]": [("(", -math.inf, 3.5, "]")],
    "[7,7]": [("[", 7, 7, "]")],
    " (0,1] ; [3,4) ": [("(", 0, 1, "]"), ("[", 3, 4, ")")],
    "[1e3,2e3]": [("[", 1000, 2000, "]")],
}
BAD = [
    "5", "", "[5,inf", "5,inf)", "[5,inf]", "[-inf,5)", "[5]", "[1,2,3]", "[a,b]", "[nan,2]", "[5,3]", "(5,5)", "[5,5)",
    "{1,2}", "[0,3];", "[0,3] [5,6]", "[[1,2]]", "1:30", "[,5]",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_intervals_are_read_as_recbole_reads_them(text):
    assert parse_intervals(text) == GOOD[text] == Dataset._parse_intervals_str(None, text)


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_interval_is_refused_with_key_value_and_form(text):
    with pytest.raises(ValueError):
        parse_intervals(text)
    for read in (
        lambda: read_interval("item_inter_num_interval", text, "dict"),
        lambda: read_value_intervals({"rating": text}, "dict"),
    ):
        said = (
            rf"(item_inter_num|val)_interval.* must be an interval.*'\[5,inf\)'.*got {re.escape(repr(text))} \(dict\)"
        )
        with pytest.raises(UserError, match=said):
            read()


@pytest.mark.parametrize("value", [5, True, ["[5,inf)"], [3, "inf"], {"from": 5}, [1, 2, 3]])
def test_values_of_other_types_are_refused(value):
    with pytest.raises(UserError, match="user_inter_num_interval must be"):
        read_interval("user_inter_num_interval", value)


@pytest.mark.parametrize("value", [4, True, None, {"at": 4}, [], [["a"]], [True]])
def test_a_filter_by_value_is_an_interval_or_a_list_of_tokens(value):
    with pytest.raises(UserError, match="val_interval: rating must be"):
        read_value_intervals({"rating": value})
    assert read_value_intervals({"genre": ["a", 7], "rating": "(3,inf)"}) == {"genre": ["a", 7], "rating": "(3,inf)"}


@pytest.mark.parametrize("wanted", ["(0,1701734400000)", "[1701734400000,inf)", "[0,5];[7,1701734400000000]"])
def test_bounds_of_times_are_seconds(walks, make_config, wanted):
    with pytest.raises(UserError, match=r"val_interval: timestamp is in Unix seconds.* looks like [mu]s"):
        make_config(val_interval={"timestamp": wanted})
    make_config(val_interval={"timestamp": "[1701734400,inf)", "price": wanted})


def test_a_configuration_has_them_checked(walks, make_config):
    made = make_config(user_inter_num_interval=[5, 10], item_inter_num_interval=None)
    assert made["user_inter_num_interval"] == "[5,10]"  # what YAML makes of it without quotes
    for key in (*INTERVAL_KEYS, "val_interval"):
        with pytest.raises(UserError, match=rf"{key}.*\[5,inf"):
            make_config(**{key: {"rating": "[5,inf"} if key == "val_interval" else "[5,inf"})


@pytest.mark.parametrize(
    "option",
    ["--user_inter_num_interval=5", '--user_inter_num_interval="[5,inf"', "--item_inter_num_interval=[5,inf]",
     "--val_interval={timestamp: '[4,9'}"],
)  # fmt: skip
def test_the_command_line_says_so_in_one_line(option, walks, tmp_path, capsys):
    assert main(["--model=SASRec", "--dataset=toy", f"--data_path={tmp_path}", option]) == 2
    error = capsys.readouterr().err
    assert option.partition("=")[0].lstrip("-") in error and "(command line)" in error and "Traceback" not in error
