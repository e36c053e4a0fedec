"""The noise of evaluation: a function of seed and history, and as good as independent normal numbers."""

import math

import pytest
import torch
from scipy import stats

from recbole_gen.model import layers
from recbole_gen.model.layers import HistoryNoise

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def mixed(z: int) -> int:
    """The output function of splitmix64, as its authors print it for unsigned words."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def slow_normals(seed: int, columns: list[list[int]], draw: int, number: int) -> list[float]:
    """The construction in unsigned whole numbers and double precision, for one history without padding."""
    total = sum(value * (mixed(((2**32 * column + place) * GAMMA) & MASK) | 1)
                for column, values in enumerate(columns) for place, value in enumerate(values, 1))  # fmt: skip
    key, numbers = mixed((total + seed * GAMMA) & MASK), []
    for i in range(math.ceil(number / 2)):
        word = mixed((key + (2**32 * draw + i + 1) * GAMMA) & MASK)
        radius = math.sqrt(-2 * math.log(((word >> 32) + 0.5) / 2**32))
        angle = 2 * math.pi * (word & (2**32 - 1)) / 2**32
        numbers += [radius * math.cos(angle), radius * math.sin(angle)]
    return numbers[:number]


def distinct_rows(rows: int, width: int = 1) -> torch.Tensor:
    """Histories as alike as they can be: ids 1, 2, ... after the same items."""
    return torch.cat([torch.ones(rows, width - 1, dtype=torch.int64), torch.arange(1, rows + 1).unsqueeze(1)], dim=1)


def padded(histories: list[list[int]], width: int) -> torch.Tensor:
    return torch.tensor([history + [0] * (width - len(history)) for history in histories])


HISTORIES = [[7, 7, 3], [], [3, 7, 7], [7, 7], [2**31 - 1], [7, 7, 3, 1, 1]]


def test_the_first_outputs_are_those_of_splitmix64():
    """Published with the generator: seed 1234567."""
    printed = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [mixed((1234567 + (i + 1) * GAMMA) & MASK) for i in range(4)] == printed


@pytest.mark.parametrize("seed", [0, 2020, -1, 2**63 + 5])
def test_the_construction_written_out(seed):
    days = [[20_000 + i for i in range(len(history))] for history in HISTORIES]
    for columns in ([HISTORIES], [HISTORIES, days]):
        noise = HistoryNoise(seed, *(padded(column, 5) for column in columns))
        for draw in range(3):
            expected = [slow_normals(seed, list(each), draw, 9) for each in zip(*columns)]
            torch.testing.assert_close(noise.normal(3, 3), torch.tensor(expected).view(6, 3, 3), rtol=1e-4, atol=1e-5)


def test_neither_place_nor_company_nor_padding_matters():
    noise = HistoryNoise(1, padded(HISTORIES, 5))
    first, second = noise.normal(7), noise.normal(7)
    order = torch.tensor([4, 0, 5, 3, 1, 2])
    other = HistoryNoise(1, padded(HISTORIES, 50)[order])
    assert torch.equal(other.normal(7), first[order]) and torch.equal(other.normal(7), second[order])
    for row, history in enumerate(HISTORIES):
        alone = HistoryNoise(1, padded([history, history], 5))
        assert torch.equal(alone.normal(7), first[[row, row]]) and torch.equal(alone.normal(7), second[[row, row]])
    # What is not read: other columns in the padding.
    times = padded([[5] * len(history) for history in HISTORIES], 5)
    garbage = torch.where(padded(HISTORIES, 5) != 0, times, 10**12)
    assert torch.equal(
        HistoryNoise(1, padded(HISTORIES, 5), times).normal(4), HistoryNoise(1, padded(HISTORIES, 5), garbage).normal(4)
    )


def test_of_a_longer_draw_the_first_numbers_are_the_same():
    """As a model needs it that draws for every place of a padded history."""
    short, long = (HistoryNoise(1, padded(HISTORIES, 5)).normal(length, 3) for length in (5, 50))
    assert torch.equal(long[:, :5], short)


def test_draws_are_the_same_however_many_are_made_together(monkeypatch):
    expected = None
    for limit in (1, 6 * 7 * 3, layers.DRAWN_AHEAD):
        monkeypatch.setattr(layers, "DRAWN_AHEAD", limit)
        noise = HistoryNoise(1, padded(HISTORIES, 5))
        drawn = torch.stack([noise.normal(7) for _ in range(9)])
        assert expected is None or torch.equal(drawn, expected)
        expected = drawn
    assert len(expected.flatten(0, 1).unique(dim=0)) == 9 * len(HISTORIES)


def test_every_part_of_a_history_and_the_seed_count():
    """Also their order, their number, and to which column a value belongs."""
    columns = [
        ([1, 2, 3], [5, 6, 7]), ([2, 1, 3], [5, 6, 7]), ([1, 2, 3], [6, 5, 7]), ([1, 2], [5, 6]),
        ([5, 6, 7], [1, 2, 3]), ([1, 2, 4], [5, 6, 7]), ([1, 2, 3], [5, 6, 8]), ([], []),
    ]  # fmt: skip
    items, days = (padded([each[column] for each in columns], 3) for column in range(2))
    keys = torch.cat([HistoryNoise(seed, items, days).keys for seed in (0, 1, 2)])
    assert len(keys.unique()) == 3 * len(columns)
    assert len(HistoryNoise(0, distinct_rows(200_000, 3)).keys.unique()) == 200_000


def require_normal(values: torch.Tensor) -> None:
    n = values.numel()
    values = values.double().flatten()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        standard_error = math.sqrt((math.prod(range(1, 2 * power, 2)) - moment**2) / n)
        assert abs(values.pow(power).mean().item() - moment) < 4.5 * standard_error, power
    assert stats.kstest(values.numpy(), "norm").pvalue > 1e-3


def test_the_numbers_are_standard_normal():
    """Over histories, over draws and over the numbers of a draw; the last alone, and the smallest distances, too."""
    require_normal(HistoryNoise(5, distinct_rows(3000)).normal(64))
    require_normal(HistoryNoise(5, distinct_rows(100_000)).normal(1))
    require_normal(HistoryNoise(5, distinct_rows(1)).normal(100_001))
    noise = HistoryNoise(5, distinct_rows(50, 20))
    require_normal(torch.stack([noise.normal(4) for _ in range(400)]))
    wide = HistoryNoise(5, distinct_rows(1000)).normal(1000)
    assert wide.isfinite().all() and 4.3 < wide.abs().max() < 6.7
    assert len(wide.unique()) > 0.9 * wide.numel()


def test_rows_draws_and_dimensions_are_not_correlated():
    """Neither the numbers nor their sizes: seeds, ids and days that follow each other make the hardest keys."""
    rows, d, draws = 400, 24, 5
    noise = HistoryNoise(7, distinct_rows(rows, 4))
    x = torch.stack([noise.normal(d) for _ in range(draws)], dim=1).double()  # [rows, draws, d]
    seeds = torch.stack([HistoryNoise(seed, torch.ones(1, 1).long()).normal(2 * d)[0] for seed in range(rows)])
    for table in (x.flatten(1), x.flatten(1).T, x.transpose(0, 1).flatten(1).T, seeds.double(), seeds.double().T):
        for values in (table, table.abs()):
            values = (values - values.mean(0)) / values.std(0)
            n = len(values)
            c = (values.T @ values / n).fill_diagonal_(0)
            pairs = c.shape[0] * (c.shape[0] - 1) / 2
            assert c.square().sum().item() / 2 == pytest.approx(pairs / n, rel=6 / math.sqrt(pairs) + 0.05)
            assert c.abs().max().item() < 6.5 / math.sqrt(n)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same():
    items = padded(HISTORIES, 5)
    here, there = HistoryNoise(3, items), HistoryNoise(3, items.cuda())
    assert torch.equal(there.keys.cpu(), here.keys)
    torch.testing.assert_close(there.normal(64).cpu(), here.normal(64), rtol=1e-4, atol=1e-5)
