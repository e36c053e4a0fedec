"""Batches of rows that are read at once, by their numbers."""

from __future__ import annotations

import torch
from recbole.data.dataloader import AbstractDataLoader
from recbole.data.transform import construct_transform
from recbole.utils import ModelType

from recbole_gen import distributed


class _RowBatches(torch.utils.data.Sampler):
    """Batches of row numbers as tensors, in the order in which torch's own samplers would give them one by one.

    Of a shuffled batch each process takes its share; the shares are of equal size, if need be by repeating rows.
    """

    def __init__(self, size: int, batch_size: int, generator: torch.Generator | None):
        self.size, self.batch_size, self.generator = size, batch_size, generator

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self):
        if self.size == 0:
            return
        if self.generator is None:
            yield from torch.arange(self.size).split(self.batch_size)
            return
        for batch in torch.randperm(self.size, generator=self.generator).split(self.batch_size):
            yield rows_of_this_process(batch)
        torch.randperm(self.size, generator=self.generator)  # torch's RandomSampler draws one in vain at its end, too


def rows_of_this_process(batch: torch.Tensor) -> torch.Tensor:
    """The rows of this process."""
    world, missing = distributed.world_size(), -len(batch) % distributed.world_size()
    return torch.cat([batch, batch.repeat(world)[:missing]])[distributed.rank() :: world] if world > 1 else batch


class _RowNumbers(torch.utils.data.Dataset):
    """Hands row numbers on to the loader's `collate_fn`, which reads all rows of a batch at once."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


class RowBatchLoader(AbstractDataLoader):
    """RecBole's loader without its list of all row numbers as Python integers: same batches, same order."""

    def __init__(self, config, dataset, sampler, shuffle=False):
        self.shuffle, self.config = shuffle, config
        self._dataset, self._sampler = dataset, sampler
        self.model = None
        self._init_batch_size_and_step()  # sets step, the rows of a batch
        self.generator = torch.Generator().manual_seed(config["seed"])
        self.transform = construct_transform(config)
        self.is_sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        torch.utils.data.DataLoader.__init__(
            self,
            dataset=_RowNumbers(self.sample_size),
            sampler=self._batches(shuffle),
            batch_size=None,
            collate_fn=self.collate_fn,
            num_workers=config["worker"],
            generator=self.generator,
        )

    def _batches(self, shuffle: bool) -> torch.utils.data.Sampler:
        """What the loader hands to `collate_fn`, batch by batch."""
        return _RowBatches(self.sample_size, self.step, self.generator if shuffle else None)
