"""Users whose last event is one of several, counted by hand and on data whose numbers are known."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from recbole_gen import catalogue
from recbole_gen.cli import main
from recbole_gen.files import read_json
from recbole_gen.prepare.tied_ends import tied_ends

SHARED = Path(__file__).resolve().parents[3] / "shared/data"


def by_hand(users, items, times) -> tuple[float, float]:
    """The shares, the second one over all orders of each user's last events."""
    tied, other = [], []
    for user in sorted(set(users)):
        events = [(t, i) for u, i, t in zip(users, items, times, strict=True) if u == user]
        last = [i for t, i in events if t == max(events)[0]]
        tied.append(len(last) > 1)
        orders = list(itertools.permutations(last))
        other.append(np.mean([order[-1] != last[-1] for order in orders]))
    return np.mean(tied), np.mean(other)


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_those_counted_by_hand(seed):
    draw = np.random.default_rng(seed)
    users, items, times = (draw.integers(n, size=60) for n in (20, 4, 5))
    found = tied_ends(users, items, times.astype(float))
    assert (found.users, found.other_item) == pytest.approx(by_hand(users.tolist(), items.tolist(), times.tolist()))
    assert 0 < found.other_item < found.users < 1


def test_a_log_without_ties_or_events():
    nobody = np.array([], dtype=np.int64)
    assert tied_ends(nobody, nobody, nobody.astype(float)).users == 0
    found = tied_ends(np.array([0, 0, 2]), np.array([0, 1, 1]), np.array([1.0, 2.0, 2.0]))
    assert (found.users, found.other_item) == (0, 0) and "not tied: no user has" in found.describe()
    assert "no sequence has another event at the same time" in found.describe("sequence")


@pytest.mark.parametrize(("name", "tied", "other"), [
    ("amazon-beauty", "43.5%", "28.8%"), ("amazon-toys", "49.6%", "33.5%"), ("ml-1m", "42.1%", "26.2%"),
    ("ml-latest-small", "15.4%", "10.3%"), ("ml-100k", "44.0%", "28.8%"),
])  # fmt: skip
def test_datasets_says_how_many_users_end_in_a_tie(capsys, name, tied, other):
    if name != "ml-100k" and not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    catalogue.datasets([name, *([] if name == "ml-100k" else [f"--data_path={SHARED}"])])
    said = capsys.readouterr().out
    assert f"last events: tied for {tied} of the users; " in said and f" {other} have another last item" in said


def test_prepare_says_and_keeps_it(tmp_path, capsys):
    rows = ["who,what,when", "a,x,1700000000", "a,y,1700000000", "b,x,1700000000", "b,y,1700000001"]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    line = ["prepare", "mine", f"--from={tmp_path}/log.csv", "--user=who", "--item=what", "--time=when"]
    assert main([*line, f"--data_path={tmp_path}"]) == 0
    told = "last events: tied for 50.0% of the users; in a random order (tie_order) 25.0% have another last item\n"
    assert told in capsys.readouterr().out
    assert read_json(tmp_path / "mine/prepare.json")["tied_last_events"] == {"users": 0.5, "other_item": 0.25}
