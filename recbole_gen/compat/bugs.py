"""What RecBole 1.2.1 gets wrong by itself, on any stack."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import torch

from recbole_gen.errors import counted


def restore_anomaly_mode(module: ModuleType) -> Iterator[None]:
    """model/sequential_recommender/sine.py:25 switches autograd's anomaly detection on for the whole process when any
    sequential model is imported: 1.6 times the time of a SASRec step. Deletable when that line is."""
    was_imported = hasattr(module, "SINE")  # what the mode was before can then no longer be known
    before = torch.is_anomaly_enabled() and not was_imported
    yield
    torch.autograd.set_detect_anomaly(before)


def keep_times_exact(module: ModuleType) -> None:
    """dataset.py:2207 turns times into float32 before it sorts by them: seconds since 1970 are then exact to a minute
    or two, and the leave-one-out target of 15.8 % of ml-100k's users changes (#2204, #1653). The time field stays
    float64; models that want float32 convert what they have normalised."""
    Dataset = module.Dataset

    convert = Dataset._dataframe_to_interaction

    def _dataframe_to_interaction(self, data):
        with warnings.catch_warnings():  # pandas 3 hands out its columns read-only; nothing writes into these tensors
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            interaction = convert(self, data)
        field = self.time_field
        if field in interaction and interaction[field].dim() == 1:
            interaction[field] = torch.from_numpy(data[field].to_numpy(dtype=np.float64, copy=True))
        return interaction

    Dataset._dataframe_to_interaction = _dataframe_to_interaction


def drop_rows_without_user_or_item(module: ModuleType) -> None:
    """dataset.py:827 looks up rows without user or item by label and drops them by position: once a row is gone, good
    ones go in place of those behind it, which stay, as the padding item, and the last one raises IndexError. Our
    reading leaves such rows out before (see `atomic_files`); this is for data sets that are made in another way.
    Deletable when upstream drops what it has found."""

    def _filter_nan_user_or_item(self):
        for field, name in zip((self.uid_field, self.iid_field), ("user_feat", "item_feat"), strict=True):
            for table in (name, "inter_feat"):
                feat = getattr(self, table)
                if field is None or feat is None:
                    continue
                missing = feat[field].isna().to_numpy()
                if missing.any():
                    self.logger.warning(f"{counted(int(missing.sum()), 'row')} of {table} without {field}, left out")
                    setattr(self, table, feat[~missing])

    module.Dataset._filter_nan_user_or_item = _filter_nan_user_or_item


def drop_duplicates_stably(module: ModuleType) -> None:
    """dataset.py:866 sorts by time with an unstable algorithm before it drops repeated interactions, so which of two
    simultaneous ones stays is left to chance. Deletable when upstream passes kind="stable"."""
    Dataset = module.Dataset

    drop = Dataset._remove_duplication

    def _remove_duplication(self):
        if self.config["rm_dup_inter"] is not None and self.time_field in self.inter_feat:
            pair = [self.uid_field, self.iid_field]
            events = self.inter_feat.sort_values(by=self.time_field, kind="stable")
            self.inter_feat = events.drop_duplicates(subset=pair, keep=self.config["rm_dup_inter"])
        else:
            drop(self)

    Dataset._remove_duplication = _remove_duplication


def keep_preloaded_weights_in_float32(module: ModuleType) -> None:
    """dataset.py:609, 611 hold preloaded weights in float64, which KSR and GRU4RecKG multiply with float32."""
    Dataset = module.Dataset

    get = Dataset.get_preload_weight
    Dataset.get_preload_weight = lambda self, field: get(self, field).astype(np.float32)


def leave_the_device_to_the_launcher(module: ModuleType) -> None:
    """configurator.py:484 overwrites CUDA_VISIBLE_DEVICES with `gpu_id`, so that all trials of a Ray sweep land on
    GPU 0 (#1955), and line 490 ignores `use_gpu`. `gpu_id` counts among the devices that the launcher left visible."""

    def _init_device(self):
        values = self.final_config_dict
        if "local_rank" in values:
            raise ValueError("local_rank is the launcher's: run with --nproc=N, or under torchrun")
        gpu_id = values["gpu_id"]
        text = ",".join(map(str, gpu_id)) if isinstance(gpu_id, (tuple, list)) else str(gpu_id)
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))  # set by torchrun, and by --nproc
        values.update(gpu_id=text, single_spec=True, local_rank=local_rank, device=torch.device("cpu"))
        if not (values["use_gpu"] and text and torch.cuda.is_available()):
            return
        listed, count = [int(each) for each in text.split(",")], torch.cuda.device_count()
        if min(listed) < 0:  # RecBole's users write -1 for the CPU
            return
        # One process a GPU: those that gpu_id lists, or the first ones if it names just one.
        index = listed[local_rank] if local_rank < len(listed) else listed[0] + local_rank
        if index >= count:
            raise ValueError(f"gpu_id: {index} does not exist, {count} GPU(s) are visible (0 to {count - 1})")
        values["device"] = torch.device("cuda", index)
        torch.cuda.set_device(index)

    module.Config._init_device = _init_device


def count_every_interaction_in_pop(module: ModuleType) -> None:
    """pop.py:47 adds 1 to the items of a batch by assignment, which counts an item once a batch however often it is in
    it, so that the baseline depends on train_batch_size (#2198, #1844)."""

    def calculate_loss(self, interaction):
        self.item_cnt += torch.bincount(interaction[self.ITEM_ID], minlength=self.n_items).unsqueeze(1)
        self.max_cnt = self.item_cnt.max(dim=0)[0]
        return torch.zeros(1, requires_grad=True, device=self.device)

    module.Pop.calculate_loss = calculate_loss


def collect_counts_beside_tensors(module: ModuleType) -> None:
    """collector.py:227 takes everything that was collected to the CPU, and fails on the numbers and counters that
    ItemCoverage, AveragePopularity, GiniIndex, ShannonEntropy and TailPercentage need."""

    def get_data_struct(self):
        collected = self.data_struct._data_dict
        for key, value in collected.items():
            if isinstance(value, torch.Tensor):
                collected[key] = value.cpu()
        returned = copy.deepcopy(self.data_struct)
        for key in ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label"):
            collected.pop(key, None)
        return returned

    module.Collector.get_data_struct = get_data_struct


def compare_lists_of_regularisation(module: ModuleType) -> None:
    """trainer.py:169 multiplies weight_decay by reg_weight to see whether both are set, and HGN and SHAN have a list
    there, so that no weight_decay works with them."""
    Trainer = module.Trainer

    build = Trainer._build_optimizer

    def _build_optimizer(self, **kwargs):
        weights = self.config["reg_weight"]
        if not isinstance(weights, (list, tuple)):
            return build(self, **kwargs)
        self.config["reg_weight"] = max(weights)
        try:
            return build(self, **kwargs)
        finally:
            self.config["reg_weight"] = weights

    Trainer._build_optimizer = _build_optimizer


def sum_the_entropy(module: ModuleType) -> None:
    """metrics.py:625: ShannonEntropy divides the sum of its formula by the number of items that are recommended."""

    def get_entropy(self, item_matrix):
        _, counts = np.unique(_listed(item_matrix), return_counts=True)
        share = counts / max(counts.sum(), 1)
        return float(-(share * np.log(share)).sum())

    module.ShannonEntropy.get_entropy = get_entropy


def leave_padding_out_of_coverage(module: ModuleType) -> None:
    """metrics.py:504: ItemCoverage counts the padding among the items that there are."""

    def get_coverage(self, item_matrix, num_items):
        return len(np.unique(_listed(item_matrix))) / (num_items - 1)

    module.ItemCoverage.get_coverage = get_coverage


def leave_padding_out_of_gini_index(module: ModuleType) -> None:
    """metrics.py:692: GiniIndex counts the padding as an item that is never recommended."""

    def get_gini(self, item_matrix, num_items):
        _, counts = np.unique(_listed(item_matrix), return_counts=True)
        n = num_items - 1
        place = np.arange(n - len(counts) + 1, n + 1)  # behind the items that are in no list
        return float(((2 * place - n - 1) * np.sort(counts)).sum() / max(counts.sum(), 1) / n)

    module.GiniIndex.get_gini = get_gini


def average_popularity_of_what_is_listed(module: ModuleType) -> None:
    """metrics.py:537, 551: AveragePopularity looks up every place of every list in a dict, and counts places that
    nothing was left for, which hold the padding, as items that nobody has."""

    def calculate_metric(self, dataobject):
        items, counts = self.used_info(dataobject)
        known = np.fromiter(counts.keys(), np.int64, len(counts))
        table = np.zeros(max(items.max(initial=0), known.max(initial=0)) + 1)
        table[known] = np.fromiter(counts.values(), np.float64, len(counts))
        return self.topk_result("averagepopularity", _mean_of_listed(table[items], items))

    module.AveragePopularity.calculate_metric = calculate_metric


def take_the_tail_in_the_order_given(module: ModuleType) -> None:
    """metrics.py:759: of items with equal counts TailPercentage takes those with the smaller ids into the tail, which
    come first in the file; here those that come first in the counts, which our evaluation gives in the order of its
    ties. It also counts places that nothing was left for, as AveragePopularity does."""

    def calculate_metric(self, dataobject):
        items, counts = self.used_info(dataobject)
        if self.tail > 1:
            tail = [item for item, count in counts.items() if count <= self.tail]
        else:
            ordered = sorted(counts, key=lambda item: counts[item])
            tail = ordered[: max(int(len(ordered) * self.tail), 1)]
        return self.topk_result("tailpercentage", _mean_of_listed(np.isin(items, tail).astype(float), items))

    module.TailPercentage.calculate_metric = calculate_metric


def _listed(items: np.ndarray) -> np.ndarray:
    """The items in lists [n, k] without the padding that stands where nothing was left, [m]."""
    return items[items > 0]


def _mean_of_listed(values: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Means of the values of the first 1, 2, ..., k items of each list, [n, k]; 0 for an empty one."""
    listed = items > 0
    return (values * listed).cumsum(axis=1) / np.maximum(listed.cumsum(axis=1), 1)
