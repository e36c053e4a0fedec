"""From a configuration to batches: the data set, its three parts, and their loaders."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from recbole.data import dataset as recbole_datasets
from recbole.data import get_dataloader
from recbole.data.dataloader import (
    AbstractDataLoader,
    FullSortEvalDataLoader,
    NegSampleEvalDataLoader,
    TrainDataLoader,
)
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.data.utils import create_samplers
from recbole.sampler import KGSampler
from recbole.utils import ModelType

from recbole_gen import distributed
from recbole_gen.data import held_out, scenes, times
from recbole_gen.data.general import GeneralSets, KnowledgeSets
from recbole_gen.data.needs import needs
from recbole_gen.data.rows import SequenceRows
from recbole_gen.data.sequences import KGSequenceDataset, SequenceDataset
from recbole_gen.errors import UserError
from recbole_gen.evaluation.ranking import distinct_positives
from recbole_gen.model.layers import FUTURE

GPU_SHARE = 0.25
"""Of the free memory of a GPU: what the rows of a data set may take of it. The rest is for the model and its steps."""


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
            yield _share(batch)
        torch.randperm(self.size, generator=self.generator)  # torch's RandomSampler draws one in vain at its end, too


def _share(batch: torch.Tensor) -> torch.Tensor:
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


class LeanLoader(AbstractDataLoader):
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
            sampler=_RowBatches(self.sample_size, self.step, self.generator if shuffle else None),
            batch_size=None,
            collate_fn=self.collate_fn,
            num_workers=config["worker"],
            generator=self.generator,
        )


class LeanTrainLoader(TrainDataLoader, LeanLoader):
    """Training batches of a sequence data set, gathered on the GPU that trains if the data set has room there."""

    @cached_property
    def _on_device(self):
        """The data set on the GPU, from the first batch on, when the model is there already; None to gather here."""
        device, rows = self.config["device"], self._dataset.inter_feat
        # Negative items, transforms and worker processes need their rows on the CPU.
        gathers = self.neg_sample_args["distribution"] == "none" and not self.config["transform"]
        if not gathers or self.config["worker"] or not isinstance(rows, SequenceRows) or not has_room(device, rows):
            return None
        return self._dataset.to(device)

    def collate_fn(self, index):
        """The batch of these rows."""
        return super().collate_fn(index) if self._on_device is None else self._on_device[index]


def has_room(device: torch.device, rows: SequenceRows) -> bool:
    """Whether a device is a GPU, and the arrays of the rows take at most `GPU_SHARE` of what is free there."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return rows.nbytes <= GPU_SHARE * free


class LeanFullSortLoader(FullSortEvalDataLoader, LeanLoader):
    """Evaluation batches of a sequence data set, ranked against all items.

    With `mask_seen` what the user has seen leaves the ranking, but for the target, as RecBole does for general models.
    """

    def collate_fn(self, index):
        """(rows, (row, item) to mask or None, row of each positive, item of each positive)."""
        interaction, seen, positive_u, positive_i = super().collate_fn(index)
        if self.config["mask_seen"]:
            row, item = self._dataset.inter_feat.seen_before(self.iid_field, index)
            other = item != positive_i[row]
            seen = row[other], item[other]
        return interaction, seen, positive_u, positive_i


class RankAllLoader(FullSortEvalDataLoader):
    """Evaluation batches of a general model with the items in the ranking that its user has seen."""

    def collate_fn(self, index):
        """(users, None, row of each positive, item of each positive)."""
        interaction, _, positive_u, positive_i = super().collate_fn(index)
        return interaction, None, positive_u, positive_i


class SetLoader(FullSortEvalDataLoader, LeanLoader):
    """One row a user, ranked against all items; its positives are the events held out, the next one, or both.

    `positives: both` scores the next item, and hands the set on in the column `future_item_id_list`. With
    `mask_history` everything that the user has seen leaves the ranking, positives among it included.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.is_sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        self.sample_size = len(dataset.inter_feat)
        LeanLoader.__init__(self, config, dataset, sampler, shuffle)

    def collate_fn(self, index):
        """(rows, (row, item) to mask or None, row of each positive, item of each positive)."""
        rows, items = self._dataset.inter_feat, self.iid_field
        if self.is_sequential:
            interaction = self.transform(self._dataset, self._dataset[index])
        else:
            interaction = self._dataset.join(Interaction({self.uid_field: rows[self.uid_field][index]}))
        future = rows.futures(items, index)
        masked = self.config["mask_history"] or self.config["mask_seen"]
        seen = rows.seen_before(items, index) if masked else None
        if self.config["positives"] == "set":
            return interaction, seen, *distinct_positives(future)
        if self.config["positives"] == "both":
            interaction.update(Interaction({FUTURE + items + self.config["LIST_SUFFIX"]: future}))
        return interaction, seen, torch.arange(len(future)), future[:, 0]


def check(config) -> None:
    """Raise UserError for what can be known to be missing before the data set is loaded."""
    _check_files(config)
    if needs(config, "scenes"):
        path, columns = _columns(config)
        scenes.prepare(config, columns, path)
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and config["mask_seen"] and config["benchmark_filename"]:
        raise UserError(
            "mask_seen needs the whole log, and files for each part hold histories only: mask_history: True leaves "
            "out those"
        )
    if _own_dataset(config) is not None:
        return
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        _check_times(config)
        return
    if config["eval_args"]["split"] and "TC" in config["eval_args"]["split"]:
        raise UserError(
            f"this protocol is for sequential models, and {config['model']} is none. RecBole cuts its data by time "
            f'with --eval_args="{{split: {{RS: [8, 1, 1]}}, group_by: none, order: TO}}". (The result of every run '
            f"shows Pop beside it.)"
        )
    if config["eval_args"]["split"] and "SS" in config["eval_args"]["split"]:
        raise UserError(
            f"{config['model']} learns one vector a user, and this protocol tests on users that training never sees: "
            f"use --protocol=leave_one_out, or a sequential model. (The result of every run shows Pop beside it.)"
        )
    if config["last_events"] and not _predicts_sets(config):
        raise UserError(
            f"last_events is for sequential models, and for the protocols holdout_82 and period: {config['model']} "
            f"reads every interaction under {config['protocol']}"
        )
    _check_columns(config)


def create_dataset(config):
    """The data set of a configuration, loaded, filtered and remapped, but not yet split.

    Sequential models get our O(N) data set; other models, and DIEN with its negative sequences, RecBole's.
    """
    check(config)
    own = _own_dataset(config)
    if own is not None:
        return (KGSequenceDataset if issubclass(own, recbole_datasets.KGSeqDataset) else own)(config)
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        return SequenceDataset(config)
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        return (KnowledgeSets if _predicts_sets(config) else recbole_datasets.KnowledgeBasedDataset)(config)
    return (GeneralSets if _predicts_sets(config) else recbole_datasets.Dataset)(config)


def _own_dataset(config):
    """The data set class that RecBole has for this one model, or None."""
    return getattr(recbole_datasets, f"{config['model']}Dataset", None) if config.is_recbole_model else None


def _predicts_sets(config) -> bool:
    split = config["eval_args"]["split"]
    return not config["benchmark_filename"] and bool(split) and next(iter(split)) in held_out.KINDS


def _columns(config) -> tuple[Path, list[str]]:
    """The first interaction file and the names in its title line."""
    part = f".{config['benchmark_filename'][0]}" if config["benchmark_filename"] else ""
    path = Path(config["data_path"]) / f"{config['dataset']}{part}.inter"
    return path, scenes.title_line(config, path)


def _check_times(config) -> None:
    """A model that reads times says so before the log is loaded."""
    if not needs(config, "times"):
        return
    path, columns = _columns(config)
    field = config["TIME_FIELD"]
    if not field:
        raise UserError(f"{config['model']} reads times, and TIME_FIELD is empty. {times.advice(config)}")
    for name in (field, *([field + config["LIST_SUFFIX"]] if config["benchmark_filename"] else [])):
        if name not in columns:
            raise UserError(
                f"data set '{config['dataset']}': {config['model']} reads times, and there is no column '{name}' among "
                f"{columns} in {path}. {times.advice(config)}"
            )


def _check_columns(config) -> None:
    """RecBole's general data set takes the columns that it needs for granted."""
    path, columns = _columns(config)
    by_time = config["eval_args"]["order"] == "TO" and not config["benchmark_filename"]
    for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", *(["TIME_FIELD"] if by_time else [])):
        if config[key] not in columns:
            raise UserError(
                f"data set '{config['dataset']}': there is no column '{config[key]}' among {columns} in {path}. Name "
                f"the right one with --{key}=NAME"
                + (", or split without times: eval_args with order: RO." if key == "TIME_FIELD" else ".")
            )


def _check_files(config) -> None:
    name, parts = config["dataset"], config["benchmark_filename"]
    if parts is not None and (not isinstance(parts, (list, tuple)) or len(parts) != 3):
        raise UserError(f"benchmark_filename must name three parts such as [train, valid, test], got {parts!r}")
    suffixes = [f"{part}.inter" for part in parts] if parts else ["inter"]
    for suffix in [*suffixes, *(config["additional_feat_suffix"] or [])]:
        path = Path(config["data_path"]) / f"{name}.{suffix}"
        if not path.is_file():
            found = ", ".join(sorted(file.name for file in path.parent.glob(f"{name}.*"))) or "no atomic files"
            raise UserError(
                f"{config['model']} on '{name}' needs the file {path}. Its folder holds {found}. Fixed parts "
                f"(NAME.train.inter, ...) are loaded with --protocol=benchmark."
            )


def history_sizes(loader, dataset) -> torch.Tensor | None:
    """How many interactions the user of each row of a test loader had before, [rows], in the loader's order.

    dataset: the whole one, of which RecBole's loaders of general models hold one part.
    """
    rows = loader._dataset.inter_feat
    if isinstance(rows, SequenceRows):
        return rows.seen
    n_users = dataset.user_num
    counts = [torch.bincount(part[dataset.uid_field], minlength=n_users) for part in (dataset.inter_feat, rows)]
    return (counts[0] - counts[1])[loader.uid_list]


def built(config):
    """The data set of a configuration, and its three parts."""
    dataset = create_dataset(config)
    dataset.logger.info(dataset)  # now it can tell the numbers of the log, not of rows
    return dataset, dataset.build()


def create_loaders(config, dataset, parts=None):
    """The (training, validation, test) loaders of a data set, which is split now if its parts are not given."""
    parts = parts or dataset.build()
    lean = isinstance(parts[0].inter_feat, SequenceRows)
    try:
        samplers = create_samplers(config, dataset, parts)
    except ValueError as error:  # such as a user who has all items, for whom there is no negative one
        raise UserError(str(error)) from error
    # RecBole's data_preparation would look for loaders that an earlier run has pickled.
    graph_sampler = []
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        args = config["train_neg_sample_args"]
        graph_sampler = [KGSampler(dataset, args["distribution"], args["alpha"])]
    loaders = []
    for phase, part, sampler in zip(("train", "valid", "test"), parts, samplers, strict=True):
        if config.is_recbole_model:
            loader_class = get_dataloader(config, phase)
        elif phase == "train":
            loader_class = TrainDataLoader
        else:
            full = config["eval_args"]["mode"][phase] == "full"
            loader_class = FullSortEvalDataLoader if full else NegSampleEvalDataLoader
        if phase != "train" and _predicts_sets(config):
            loader_class = SetLoader
        if loader_class is FullSortEvalDataLoader and not lean and config["mask_seen"] is False:
            loader_class = RankAllLoader
        if lean or distributed.world_size() > 1:
            loader_class = {
                TrainDataLoader: LeanTrainLoader,
                FullSortEvalDataLoader: LeanFullSortLoader,
            }.get(loader_class, loader_class)
        if distributed.world_size() > 1 and not issubclass(loader_class, (LeanLoader, FullSortEvalDataLoader)):
            raise UserError(
                f"{config['model']} has batches of its own kind, which nproc cannot share out: use nproc: 1"
            )
        samplers_of_phase = [sampler, *graph_sampler] if phase == "train" else [sampler]
        loaders.append(loader_class(config, part, *samplers_of_phase, shuffle=config["shuffle"] and phase == "train"))
    return tuple(loaders)
