"""What is said of a trial that has failed."""

import re

import pytest

from recbole_gen.errors import UserError
from recbole_gen.sweep.failures import reason_of_error


@pytest.mark.parametrize(
    "error, told",
    [
        (UserError("training loss is nan\nmore"), "training loss is nan"),
        (MemoryError("no room"), "out of memory: no room"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 TB"), "out of memory: Default"),
        (KeyError("width"), r"KeyError: 'width' \(see error.txt\)"),
    ],
)
def test_why_a_trial_failed_is_one_line(error, told):
    reason = reason_of_error(error)
    assert re.match(told, reason) and "\n" not in reason
