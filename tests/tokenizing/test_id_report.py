"""The numbers of the report against hand-computed ones, and the last digit."""

import numpy as np
import pytest

from recbole_gen.data.residual_kmeans import with_last_digit
from recbole_gen.tokenizing import report

# Six items on a circle: 0, 1 and 2 close together, 3 and 4 too, 5 opposite to the first.
ANGLES = np.radians([0, 10, 25, 90, 100, 180])
VECTORS = (np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * [[1], [5], [2], [1], [9], [1]]).astype(np.float32)
DIGITS = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [3, 0]])


def test_collisions_count_from_0_in_the_order_of_the_file():
    digits = np.array([[1, 2], [0, 0], [1, 2], [1, 2], [0, 1], [0, 0]])
    assert with_last_digit(digits)[:, 2].tolist() == [0, 0, 1, 2, 0, 1]
    many = np.random.default_rng(0).integers(3, size=(500, 3))
    ids = with_last_digit(many)
    assert len(np.unique(ids, axis=0)) == 500 and np.array_equal(ids[:, :3], many)


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(report, "NEAREST", 2)
    return report.measure(with_last_digit(DIGITS), [0.5, 0.125], VECTORS, codes=4, seed=0)


def test_use_of_the_codes(measured):
    first, second = measured["levels"]
    # Shares 3/6, 2/6 and 1/6; 5/6 and 1/6.
    assert (first["codes_used"], first["share_of_codes_used"], second["codes_used"]) == (3, 0.75, 2)
    assert first["entropy_bits"] == pytest.approx(1.4591, abs=1e-4)
    assert second["entropy_bits"] == pytest.approx(0.6500, abs=1e-4)
    assert measured["largest_entropy_bits"] == 2
    assert [level["variance_left"] for level in measured["levels"]] == [0.5, 0.125]


def test_collisions(measured):
    assert (measured["colliding_items"], measured["largest_collision"]) == (4, 2)


def test_neighbours_kept(measured):
    # Nearest two of each: 1 2, 0 2, 1 0, 4 2, 3 2, 4 3. First digit: 2 2 2 1 1 0 of 12; both: 1 1 0 1 1 0 of 12.
    one, two = measured["neighbours"]["shared"]
    assert (one["digits"], two["digits"], measured["neighbours"]["nearest"]) == (1, 2, 2)
    assert one["kept"] == pytest.approx(8 / 12) and two["kept"] == pytest.approx(4 / 12)
    # Any other of five: 2 2 2 1 1 0 have the first digit of these six, 1 1 0 1 1 0 both.
    assert one["by_chance"] == pytest.approx(8 / 30) and two["by_chance"] == pytest.approx(4 / 30)


def test_neighbours_are_those_of_a_plain_search(monkeypatch):
    monkeypatch.setattr(report, "NUMBERS_AT_ONCE", 1000)
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    vectors[7] = 0
    items = np.arange(0, 300, 3)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    expected = np.sort(np.argsort(-cosines[items], axis=1)[:, :10], axis=1)
    assert np.array_equal(np.sort(report.nearest_by_cosine(vectors, items, 10), axis=1), expected)


def test_of_many_items_some_are_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr(report, "MOST_ITEMS", 50)
    draw = np.random.default_rng(0)
    digits, vectors = draw.integers(4, size=(400, 2)), draw.normal(size=(400, 8)).astype(np.float32)
    one, again, other = (report.neighbours_kept(digits, vectors, seed) for seed in (1, 1, 2))
    assert one == again != other and one["items"] == 50


def test_random_digits_keep_what_chance_keeps():
    draw = np.random.default_rng(0)
    shared = report.neighbours_kept(draw.integers(4, size=(1500, 1)), draw.normal(size=(1500, 8)), 0)["shared"]
    assert len(shared) == 1 and shared[0]["kept"] == pytest.approx(shared[0]["by_chance"], abs=0.02)


def said(measured, codes: int, method: str = "kmeans") -> str:
    return "\n".join(report.report_lines(measured, codes, method))


def test_dead_codes_and_too_many_codes_are_told():
    even = with_last_digit(np.column_stack([np.arange(400) % 8, np.arange(400) // 8 % 3]))
    vectors = np.random.default_rng(0).normal(size=(400, 4))
    measured = report.measure(even, [0.5, 0.2], vectors, 8, 0)
    assert "fewer than half of the codes are used by digit 2 (3): fewer --codes may" in said(measured, 8)
    assert "digit 2 (3): --restart_dead_codes=true, more --epochs or" in said(measured, 8, "rqvae")
    few = report.measure(with_last_digit(DIGITS), [0.5, 0.2], VECTORS, 8, 0)
    assert "8 codes may give each of 6 items a first digit of its own" in said(few, 8)


def test_digits_that_explain_nothing_are_told():
    measured = report.measure(with_last_digit(DIGITS), [3e7, 1.5], VECTORS, 4, 0)
    assert "the digits explain nothing" in said(measured, 4, "rqvae") and "3e+07 times" in said(measured, 4, "rqvae")
    assert "150.0%" in said(measured, 4, "rqvae")
