import numpy as np
import pytest

from recbole_gen.data.loaders import create_dataset
from recbole_gen.data.spellings import whole_numbers_in_two_spellings


@pytest.mark.parametrize(
    "tokens, found",
    [
        (["[PAD]", "5", "5.0", "6", "7.0", "-3", "-3.0"], ["5", "-3"]),
        (["5", "5.00"], ["5"]),
        (["a", "a.0", "1.5", "1.50", "v1.0", "", ".0", "0.0.0"], []),
        (["50", "5.0", "10", "100"], []),
        ([], []),
    ],
)
def test_only_whole_numbers_count(tokens, found):
    assert whole_numbers_in_two_spellings(np.array(tokens, dtype=object)) == found


def test_they_are_told_with_the_column_and_kept_in_the_notes(write_atomic, make_config, caplog):
    users = [user for user in "abcd" for _ in range(5)]
    items = ["1", "2", "3", "4", "5"] * 3 + ["1.0", "2.0", "3.0", "4.0", "5.0"]
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": range(20)})
    data = create_dataset(make_config("SASRec"))
    (told,) = [text for text in data.notes if "decimal point" in text]
    assert "5 whole numbers occur" in told and "'item_id' (1 and 1.0, 2 and 2.0, 3 and 3.0, ...)" in told
    assert told in caplog.text and data.item_num == 11
