"""How messages are put."""

import pytest

from recbole_gen.errors import counted


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((1, "event", "are"), "1 event is"),
        ((2000, "event", "are"), "2,000 events are"),
        ((0, "event", "were"), "0 events were"),
        ((1, "row", "have"), "1 row has"),
        ((1, "history", "need"), "1 history needs"),
        ((3, "history"), "3 histories"),
        ((2, "day"), "2 days"),
        ((2, "epoch"), "2 epochs"),
        ((2, "batch"), "2 batches"),
        ((2, "index"), "2 indexes"),
    ],
)
def test_a_number_agrees_with_its_noun_and_verb(arguments, text):
    assert counted(*arguments) == text
