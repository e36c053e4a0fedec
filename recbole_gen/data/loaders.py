"""From a configuration to batches: the data set, its three parts, and their loaders."""

from __future__ import annotations

from functools import cached_property
from logging import getLogger

import torch
from recbole.data import dataset as recbole_datasets
from recbole.data import get_dataloader
from recbole.data.dataloader import (
    FullSortEvalDataLoader,
    NegSampleEvalDataLoader,
    TrainDataLoader,
)
from recbole.data.interaction import Interaction
from recbole.data.utils import create_samplers
from recbole.sampler import KGSampler
from recbole.utils import EvaluatorType, ModelType

from recbole_gen import distributed
from recbole_gen.data import cold_items, padding, sampled_candidates, simultaneous, spellings
from recbole_gen.data.columns import special_dataset_class
from recbole_gen.data.general_datasets import (
    GeneralDataset,
    GeneralSetDataset,
    KnowledgeDataset,
    KnowledgeSetDataset,
)
from recbole_gen.data.position_windows import PositionWindows, WindowBatches
from recbole_gen.data.requirements import check_before_loading, predicts_sets, trains_on_positions
from recbole_gen.data.row_batches import RowBatchLoader
from recbole_gen.data.rows import SequenceRows
from recbole_gen.data.seen_targets import tell_masked_targets, without_seen_targets
from recbole_gen.data.sequences import KGSequenceDataset, SequenceDataset
from recbole_gen.errors import UserError
from recbole_gen.evaluation.ranking import distinct_positives
from recbole_gen.model.layers import FUTURE

GPU_SHARE = 0.25
"""Of the free memory of a GPU: what the rows of a data set may take of it. The rest is for the model and its steps."""


class RowBatchTrainLoader(TrainDataLoader, RowBatchLoader):
    """Training batches of a sequence data set, gathered on the GPU that trains if the data set has room there."""

    @cached_property
    def _dataset_on_gpu(self):
        """The data set on the GPU, from the first batch on, when the model is there already; None to gather here."""
        device, rows = self.config["device"], self._dataset.inter_feat
        # Negative items, transforms and worker processes need their rows on the CPU.
        gathers = self.neg_sample_args["distribution"] == "none" and not self.config["transform"]
        if not gathers or self.config["worker"] or not isinstance(rows, SequenceRows) or not fits_on_gpu(device, rows):
            return None
        return self._dataset.to(device)

    def collate_fn(self, index):
        """The batch of these rows."""
        return super().collate_fn(index) if self._dataset_on_gpu is None else self._dataset_on_gpu[index]


class PositionTrainLoader(RowBatchTrainLoader):
    """Training batches of windows, see `data.position_windows`; `positions_batch_size` of them on average."""

    def _init_batch_size_and_step(self):
        super()._init_batch_size_and_step()
        rows, data = self._dataset.inter_feat, self._dataset
        self.windows = PositionWindows(rows, data.uid_field, data.iid_field + self.config["LIST_SUFFIX"])

    def _batches(self, shuffle: bool) -> WindowBatches:
        return WindowBatches(self.windows, self.config["positions_batch_size"], self.generator, shuffle)

    def collate_fn(self, index):
        """The batch of these windows."""
        rows = (self._dataset_on_gpu or self._dataset).inter_feat
        begin, size = index
        return self.windows.batch(begin, size, self._dataset.item_list_length_field, rows)


def fits_on_gpu(device: torch.device, rows: SequenceRows) -> bool:
    """Whether a device is a GPU, and the arrays of the rows take at most `GPU_SHARE` of what is free there."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return rows.nbytes <= GPU_SHARE * free


class RowBatchFullSortLoader(FullSortEvalDataLoader, RowBatchLoader):
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


class UnmaskedFullSortLoader(FullSortEvalDataLoader):
    """Evaluation batches of a general model with the items in the ranking that its user has seen."""

    def collate_fn(self, index):
        """(users, None, row of each positive, item of each positive)."""
        interaction, _, positive_u, positive_i = super().collate_fn(index)
        return interaction, None, positive_u, positive_i


class HeldOutSetLoader(FullSortEvalDataLoader, RowBatchLoader):
    """One row a user, ranked against all items; its positives are the events held out, the next one, or both.

    `positives: both` scores the next item, and hands the set on in the column `future_item_id_list`. With
    `mask_history` everything that the user has seen leaves the ranking, positives among it included.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.is_sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        self.sample_size = len(dataset.inter_feat)
        RowBatchLoader.__init__(self, config, dataset, sampler, shuffle)

    def collate_fn(self, index):
        """(rows, (row, item) to mask or None, row of each positive, item of each positive)."""
        rows, items = self._dataset.inter_feat, self.iid_field
        if self.is_sequential:
            interaction = self.transform(self._dataset, self._dataset[index])
        else:
            interaction = self._dataset.join(Interaction({self.uid_field: rows[self.uid_field][index]}))
        future = rows.future_values(items, index)
        masked = self.config["mask_history"] or self.config["mask_seen"]
        seen = rows.seen_before(items, index) if masked else None
        if self.config["positives"] == "set":
            return interaction, seen, *distinct_positives(future)
        if self.config["positives"] == "both":
            interaction.update(Interaction({FUTURE + items + self.config["LIST_SUFFIX"]: future}))
        return interaction, seen, torch.arange(len(future)), future[:, 0]

    def seen_before(self, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(row, item) of everything that the users of the batch that begins at row ``first`` had before it."""
        rows = torch.arange(first, min(first + self.step, self.sample_size))
        return self._dataset.inter_feat.seen_before(self.iid_field, rows)


def create_dataset(config):
    """The data set of a configuration, loaded, filtered, remapped, and in its order, but not yet split.

    Sequential models get our O(N) data set; DIEN, with its negative sequences, RecBole's; other models RecBole's with
    the test rows of sequential ones. Its `notes` are the warnings about what was loaded, left out and made up, which
    are in the log already.
    """
    notes = check_before_loading(config)
    for note in notes:
        getLogger().warning(note)
    dataset = _dataset_class(config)(config)
    dataset.notes = [*notes, *getattr(dataset, "notes", ())]
    simultaneous.shuffle_simultaneous(dataset)
    padding.tell_padding(dataset)
    spellings.tell_two_spellings(dataset)
    return dataset


def _dataset_class(config):
    special = special_dataset_class(config)
    if special is not None:
        return KGSequenceDataset if issubclass(special, recbole_datasets.KGSeqDataset) else special
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        return SequenceDataset
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        return KnowledgeSetDataset if predicts_sets(config) else KnowledgeDataset
    return GeneralSetDataset if predicts_sets(config) else GeneralDataset


def history_lengths(loader, dataset) -> torch.Tensor | None:
    """How many interactions the user of each row of a test loader had before, [rows], in the loader's order.

    dataset: the whole one, of which RecBole's loaders of general models hold one part.
    """
    rows = loader._dataset.inter_feat
    if isinstance(rows, SequenceRows):
        return rows.seen_counts
    n_users = dataset.user_num
    counts = [torch.bincount(part[dataset.uid_field], minlength=n_users) for part in (dataset.inter_feat, rows)]
    return (counts[0] - counts[1])[loader.uid_list]


def build_dataset(config):
    """The data set of a configuration, and its three parts."""
    dataset = create_dataset(config)
    dataset.logger.info(dataset)  # now it can tell the numbers of the log, not of rows
    return dataset, dataset.build()


def create_loaders(config, dataset, parts=None):
    """The (training, validation, test) loaders of a data set, which is split now if its parts are not given."""
    parts = parts or dataset.build()
    is_windowed = isinstance(parts[0].inter_feat, SequenceRows)
    if config["eval_type"] == EvaluatorType.RANKING and not predicts_sets(config):
        parts = without_seen_targets(config, parts, config["MODEL_TYPE"] == ModelType.SEQUENTIAL)
        if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            tell_masked_targets(config, parts)
    try:
        samplers = create_samplers(config, dataset, parts)
    except ValueError as error:  # such as a user who has all items, for whom there is no negative one
        raise UserError(str(error)) from error
    cold = cold_items.drawn_items(dataset)
    if cold is not None:
        cold_items.draw_no_cold_items(samplers[0], cold)
        if not is_windowed:  # windows have been cut without them
            parts = [cold_items.without_cold_items(parts[0], cold), *parts[1:]]
        cold_items.tell_cold_items(dataset, cold, parts)
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
        if phase != "train" and predicts_sets(config):
            loader_class = HeldOutSetLoader
        if loader_class is FullSortEvalDataLoader and not is_windowed and config["mask_seen"] is False:
            loader_class = UnmaskedFullSortLoader
        if is_windowed or distributed.world_size() > 1:
            loader_class = {
                TrainDataLoader: RowBatchTrainLoader,
                FullSortEvalDataLoader: RowBatchFullSortLoader,
            }.get(loader_class, loader_class)
        if phase == "train" and trains_on_positions(config):
            loader_class = PositionTrainLoader
        if distributed.world_size() > 1 and not issubclass(loader_class, (RowBatchLoader, FullSortEvalDataLoader)):
            raise UserError(
                f"{config['model']} has batches of its own kind, which nproc cannot share out: use nproc: 1"
            )
        if phase != "train" and loader_class is NegSampleEvalDataLoader and _ranks_sampled(config, phase):
            loaders.append(sampled_candidates.SampledCandidatesLoader(config, part, sampler, phase, parts[0]))
            continue
        samplers_of_phase = [sampler, *graph_sampler] if phase == "train" else [sampler]
        loaders.append(loader_class(config, part, *samplers_of_phase, shuffle=config["shuffle"] and phase == "train"))
    return tuple(loaders)


def _ranks_sampled(config, phase: str) -> bool:
    """Whether a part is evaluated by ranking sampled candidates."""
    ranks = config["eval_type"] == EvaluatorType.RANKING
    return ranks and config["eval_args"]["mode"][phase].startswith(("uni", "pop"))
